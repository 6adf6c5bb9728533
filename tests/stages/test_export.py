"""export: the kept rows of a selection, in the order of the samples, and what a trainer must be told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raycurate.config import ExportConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.samples.schema import ImageRef, Message, Sample, samples_to_table
from raycurate.settings import make_config
from raycurate.stages.engine.shards import map_here
from raycurate.stages.export import export
from raycurate.stages.select import select
from tests.hostile import encoded


def _run_of(folder, samples):
    """A run of samples in two shards, all of them chosen; images below its folder."""
    run = Run(str(folder / "run"))
    noun = run.noun("samples")
    noun.begin({"stage": "ingest", "config": {"images": str(folder)}})
    half = len(samples) // 2
    for shard, part in enumerate((samples[:half], samples[half:])):
        noun.commit_part(shard, samples_to_table(part), rows_in=len(part))
    noun.finish(metrics={"tasks": {"t": len(samples)}})
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 1.0}), map_here)
    return run


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory):
    """Twelve rows, one of which has two images."""
    samples = []
    for i in range(12):
        images = tuple(ImageRef(path=f"{i}-{n}.png") for n in range(2 if i == 7 else i % 2))
        turns = (Message("user", "<image>" * len(images) + f"q{i}"), Message("assistant", f"a{i}", train=i != 3))
        again = (Message("user", "sure?"), Message("assistant", "yes"))
        samples.append(Sample((*turns, *again), images, task="t", source_row=i))
    return _run_of(tmp_path_factory.mktemp("export"), samples)


def _export(run, path, **settings):
    return export(run, make_config(ExportConfig, {"out": str(path), **settings}))


def test_rows_come_in_the_order_of_the_samples(run, tmp_path, caplog):
    """Also in a format that says which answers are context only: then nothing needs to be told."""
    assert _export(run, tmp_path / "out.jsonl", format="swift") == 12
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["messages"][0]["content"].rpartition("q")[2] for row in rows] == [str(i) for i in range(12)]
    assert [row["messages"][1].get("loss") for row in rows] == [False if i == 3 else None for i in range(12)]
    assert "context only" not in caplog.text


def test_answers_that_are_context_only_are_refused_or_told(run, tmp_path, caplog):
    """LLaVA's format cannot say it: an error, or with `train_all` a line with the count."""
    with pytest.raises(UserError, match="train_all=true"):
        _export(run, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    assert _export(run, tmp_path / "out.json", train_all=True) == 12
    assert "1 rows have answers that are context only; a trainer of the format 'llava' will learn them" in caplog.text


def test_one_row_of_several_images_makes_every_image_a_list(run, tmp_path):
    """LLaVA's loaders take one kind of value in a column."""
    _export(run, tmp_path / "out.json", train_all=True)
    shown = [row.get("image") for row in json.loads((tmp_path / "out.json").read_text("utf-8"))]
    assert [len(paths) for paths in shown if paths] == [1, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("files", [True, False])
def test_llavas_image_folder_has_all_images_also_those_that_were_bytes(ray_cluster, tmp_path, files):
    """That of the README, in front of every name, as LLaVA's loader joins them; bytes alone need no root."""
    (tmp_path / "0.png").write_bytes(b"a file")
    data = ImageRef(data=encoded(), sha="ab" * 32)
    turns = Message("user", "<image>q"), Message("assistant", "a")
    samples = [Sample(turns, (ImageRef(path="0.png") if files and not i else data,), source_row=i) for i in range(2)]
    run = _run_of(tmp_path, samples)
    assert _export(run, tmp_path / "out" / "rows.json", format="llava") == 2
    command = (tmp_path / "out" / "rows.json.README.md").read_text("utf-8").partition("--image_folder '")[2]
    names = [row["image"] for row in json.loads((tmp_path / "out" / "rows.json").read_text("utf-8"))]
    assert [Path(command.partition("'")[0], name).read_bytes() for name in names] == [
        b"a file" if files else encoded(),
        encoded(),
    ]
    assert {name.startswith("/") for name in names} == {files}


def test_paths_in_parquet_are_absolute_where_images_stay_files(run, tmp_path):
    """A trainer elsewhere on the machine finds them."""
    _export(run, tmp_path / "out.parquet", format="parquet", embed_images=False, train_all=True)
    images = [row for row in pq.read_table(tmp_path / "out.parquet")["images"].to_pylist() if row]
    assert images[0] == [{"bytes": None, "path": f"{Path(run.uri).parent}/1-0.png"}]


def test_a_folder_has_the_weights_of_the_tasks(run, tmp_path):
    """From a file; its card names the selection by its fingerprint; names that no task has are refused."""
    weights = tmp_path / "weights.json"
    weights.write_text('{"weights": {"t": 2.0}}')
    settings = {"format": "swift_tasks", "task_weights": str(weights)}
    assert _export(run, tmp_path / "out", **settings) == 12
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    assert card["tasks"] == {"t": {"name": "t", "rows": 12, "probability": 1.0}}
    assert card["fingerprint"] == run.noun("selection").manifest().fingerprint
    weights.write_text('{"weights": {"T": 2.0, "t": 1.0}}')
    with pytest.raises(UserError, match="task in the weights 'T'"):
        _export(run, tmp_path / "out", **settings)


def test_fiftyone_gets_rows_that_were_not_kept_as_well(run, tmp_path, caplog):
    """A document per image of all rows, each with its decision; rows of text are told."""
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 0.5, "label": "half"}), map_here)
    assert _export(run, tmp_path / "out", format="fiftyone", selection="half") == 12
    shown = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    parts = [run.noun("selection", "half").read_part(shard, ["key", "kept"]).to_pylist() for shard in range(2)]
    kept = {row["key"]: row["kept"] for part in parts for row in part}
    assert [each["kept"] for each in shown] == [kept[each["key"]] for each in shown]
    assert len(shown) == 7
    assert len({each["key"] for each in shown}) == 6
    assert "6 rows have no image" in caplog.text
    with pytest.raises(UserError, match="'fiftyone' has no place for task weights"):
        _export(run, tmp_path / "out", format="fiftyone", task_weights={"t": 2.0})


def test_weights_and_formats_that_do_not_fit_are_told(run, tmp_path):
    """One file has no place for weights; an unknown format names all."""
    with pytest.raises(UserError, match="'swift' has no place for task weights.*swift_tasks"):
        _export(run, tmp_path / "out.jsonl", format="swift", task_weights={"t": 2.0})
    with pytest.raises(UserError, match="llamafactory"):
        _export(run, tmp_path / "out", format="lamafactory")
