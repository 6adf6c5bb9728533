"""The arithmetic of a mixture: rows of each source, and a draw that is nested and exact."""

from __future__ import annotations

import base64
import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.samples.mixture import MixtureReader, Part, bound_of, drawn, draws_of, named_under, rows_of_sources
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.readers import open_source
from raycurate.settings import make_config


@pytest.mark.parametrize(
    ("weights", "caps", "expected"),
    [
        ({}, {}, {"a": 100, "b": 30}),
        ({}, {"a": 40, "b": 50}, {"a": 40, "b": 30}),
        ({"a": 1, "b": 1}, {}, {"a": 30, "b": 30}),
        ({"a": 4, "b": 1}, {}, {"a": 100, "b": 25}),
        ({"a": 0.2, "b": 0.1}, {"b": 10}, {"a": 20, "b": 10}),
    ],
)
def test_no_source_gives_more_than_it_has_and_one_gives_all(weights, caps, expected):
    assert rows_of_sources({"a": 100, "b": 30}, weights, caps) == expected


def table_of(contents: list[int], source: str = "a") -> pa.Table:
    """Rows whose content is a number; equal ones beside each other, as in a shard."""
    keys = [f"{hashlib.blake2b(bytes([c]), digest_size=16).hexdigest()}-0" for c in sorted(contents)]
    return pa.table({"key": keys, "source_file": [f"{source}/f.json"] * len(keys)})


@pytest.mark.parametrize("wanted", range(8))
def test_a_draw_is_exact_also_inside_of_exact_copies_and_nested(wanted):
    """Seven of eight rows are copies of others."""
    table = table_of([1, 1, 1, 2, 2, 3, 3, 3])
    draw_N = draws_of(table["key"].to_pylist())

    def kept(count: int) -> np.ndarray:
        return drawn(table, {"a": bound_of(draw_N, count)})

    assert kept(wanted).sum() == wanted
    if wanted:
        assert not (kept(wanted - 1) & ~kept(wanted)).any()


def test_a_bound_is_for_its_own_source_only():
    tables = [table_of([1, 2, 3], "a"), table_of([1, 2, 3], "b")]
    bound = bound_of(draws_of(tables[0]["key"].to_pylist()), 1)
    assert drawn(pa.concat_tables(tables), {"a": bound}).tolist()[3:] == [True] * 3


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        ({"a": {"path": "x", "weight": 1}, "b": {"path": "y"}}, "a have a weight and b have none"),
        ({"a/b": {"path": "x"}}, "'a/b' is no name of a source"),
        ({"a": {"path": "x", "wieght": 1}}, "Did you mean 'weight'"),
        ({"a": {"path": "x", "cap": 0}}, "sources.a.cap"),
        ({}, "sources"),
    ],
)
def test_wrong_settings_are_told(sources, text):
    with pytest.raises(UserError, match=text):
        make_config(IngestConfig, {"sources": sources})


def test_a_source_beside_sources_is_refused():
    with pytest.raises(UserError, match="put it among them"):
        make_config(IngestConfig, {"source": "x.json", "sources": {"a": {"path": "y.json"}}})


def test_paths_of_a_source_count_from_its_root(tmp_path):
    """Wherever a row has them; absolute ones, bytes and what is on the web stay what they are."""
    text = {"type": "text", "text": "q"}
    blocks = [{"role": "user", "content": [{"type": "image", "image": "2.png"}, text]}]
    rows = [{"question": "q", "answer": "a", "image": image} for image in ("1.png", "/data/vg/3.png")]
    rows += [{"messages": [*blocks, {"role": "assistant", "content": "a"}]}]
    rows += [{"question": "<img>4.png</img>q", "answer": "a"}]
    rows += [{"question": "q", "answer": "a", "image": base64.b64encode(bytes(range(256))).decode()}]
    rows += [{"question": "q", "answer": "a", "image": {"url": "https://a.org/5.png"}}]
    (tmp_path / "vqa.json").write_text(json.dumps(rows))
    source = named_under(open_source(str(tmp_path / "vqa.json")), "vqa")
    reader = MixtureReader((Part("vqa", source, root="coco"),), "task")
    options = ParseOptions(image_root="/data")
    found = [parse_row(raw, options) for part in reader.slices() for raw in reader.read(part)]
    paths = [[image.path for image in each.images] for each in found[:5]]
    assert paths == [["coco/1.png"], ["vg/3.png"], ["coco/2.png"], ["coco/4.png"], [None]]
    assert found[4].images[0].data == bytes(range(256))
    assert found[5].reason == "image_remote"
