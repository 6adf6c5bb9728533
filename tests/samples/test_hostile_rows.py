"""Hostile rows among good ones: each is refused for its reason, and no good row is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reason, Reject, rejects_to_table
from raycurate.samples.read_json import parse_json
from raycurate.samples.readers import open_source
from raycurate.samples.rows import RawRow, ReadOptions
from raycurate.samples.schema import SAMPLE_SCHEMA, samples_to_table
from tests.checked import check_samples
from tests.hostile import hostile_lines, write_bad_images, write_hostile_dataset, write_images


def ingest(source, images, *, slice_rows=1000, options=None):
    """The pure part of the ingest stage: samples with occurrence numbers, and rejects."""
    reader = open_source(str(source), options=ReadOptions(slice_rows=slice_rows))
    parsed = [parse_row(raw, options or ParseOptions()) for part in reader.slices() for raw in reader.read(part)]
    rejects = [item for item in parsed if isinstance(item, Reject)]
    parsed = [item for item in parsed if not isinstance(item, Reject)]
    seen: Counter[str] = Counter()
    samples = []
    for item in check_samples(parsed, ImageRoot(str(images)), threads=2):
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        samples.append(replace(item, occurrence=seen[item.content_hash]))
        seen[item.content_hash] += 1
    return samples, rejects


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return write_hostile_dataset(tmp_path_factory.mktemp("hostile"))


def test_a_thousand_hostile_rows_among_four_thousand(hostile):
    """Rows in = rows out + rows refused, each refusal by its reason, and the survivors have the expected keys."""
    samples, rejects = ingest(hostile.source, hostile.images)
    assert hostile.num_hostile == 1000
    assert len(hostile_lines()) >= 90
    assert len(hostile.expected_reasons) >= 30
    assert Counter(str(reject.reason) for reject in rejects) == hostile.expected_reasons
    assert len(samples) == hostile.num_good == 4000
    assert {sample.key for sample in samples} == hostile.expected_keys
    assert Counter(sample.task for sample in samples) == hostile.expected_tasks
    assert samples_to_table(samples).schema == SAMPLE_SCHEMA


def test_the_result_does_not_depend_on_the_slices(hostile):
    """Other slices give the same rows at the same positions."""
    first, second = (ingest(hostile.source, hostile.images, slice_rows=n) for n in (137, 100_000))
    assert first == second


def test_quarantine_rows_are_short_and_printable(hostile):
    """Whatever a row held, its quarantine row can be shown on a terminal and has its line number."""
    _, rejects = ingest(hostile.source, hostile.images)
    lines = hostile.source.read_bytes().split(b"\n")
    table = rejects_to_table(rejects).to_pylist()
    for row in table:
        assert len(row["excerpt"]) <= 500
        assert row["excerpt"].isprintable()
        assert row["detail"].isprintable()
        assert row["source_file"] == "data.jsonl"
    by_row = {row["source_row"]: row for row in table}
    assert by_row[lines.index(b"not json at all")]["excerpt"] == "not json at all"


@pytest.mark.parametrize(("reason", "line"), hostile_lines(), ids=lambda value: str(value)[:40])
def test_each_hostile_row_has_one_reason(reason, line, tmp_path):
    """One row by itself is refused for the reason of its kind."""
    write_images(tmp_path / "root", 2)
    write_bad_images(tmp_path / "root")
    result = parse_row(RawRow("f", 3, parse_json(line)), ParseOptions())
    if not isinstance(result, Reject):
        (result,) = check_samples([result], ImageRoot(str(tmp_path / "root")))
    assert isinstance(result, Reject)
    assert (result.reason, result.source_file, result.source_row) == (Reason(reason), "f", 3)
    assert result.detail
    assert result.to_row()["excerpt"].isprintable()
