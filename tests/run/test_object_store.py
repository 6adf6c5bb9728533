"""Runs and sources on an object store: the same selection as on a disk, whatever happens to the connection."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.pipeline import run_recipe
from raycurate.recipe import Recipe
from raycurate.run.filesystem import read_bytes, resolve, write_bytes
from raycurate.run.store import Run
from raycurate.samples.exporters import export_samples
from raycurate.samples.schema import Message, Sample
from raycurate.settings import make_config
from tests.drawn_data import recipe_values, selection_of, write_data

ROWS = 160


def curate(out: str, data: str, model: Path) -> Run:
    """The whole curation of ``data`` under ``out``; both may be URIs."""
    recipe = make_config(Recipe, recipe_values(out, data, model, extract={"max_actors": 1}))
    run_recipe(recipe)
    return Run(recipe.run)


def written(run: Run) -> dict[int, int]:
    """When each committed part of the features was written."""
    noun = run.noun("features")
    return {shard: noun.filesystem.get_file_info(noun.part_path(shard)).mtime_ns for shard in noun.records()}


def coreset(out: str) -> bytes:
    return read_bytes(*resolve(f"{out}/coreset.json"))


@pytest.mark.nodes
def test_a_curation_on_s3_survives_cut_connections_and_ends_as_on_a_disk(ray_cluster, s3, tmp_path):
    """A cut of a second is bridged; a lasting one inside a commit fails the stage, and a rerun keeps what was there."""
    data = write_data(tmp_path, ROWS)
    calm = curate(str(tmp_path), str(data), data / "model")
    name = tmp_path.name
    remote = f"s3://bucket/{name}"
    for file in (data / "rows.json", *data.glob("*.png")):
        write_bytes(*resolve(f"{remote}/{file.name}"), file.read_bytes())
    run = Run(f"{remote}/run")
    s3.cut_inside(f"PUT /bucket/{name}/run/samples/main/part-00001", seconds=1.0)
    features = f"/bucket/{name}/run/features/main"
    s3.cut_inside(f"PUT {features}/part-00002", after=f"{features}/records/00000.json")
    with pytest.raises(Exception, match="NETWORK_CONNECTION"):
        curate(remote, remote, data / "model")
    assert s3.cuts == 2
    s3.restore()
    before = written(run)
    assert 0 in before
    assert 2 not in before
    shown = CliRunner().invoke(main, ["status", run.uri])
    assert "features/main" in shown.stdout
    assert str(sum(record.rows_out for record in run.noun("features").records().values())) in shown.stdout
    curate(remote, remote, data / "model")
    after = written(run)
    assert {shard: after[shard] for shard in before} == before
    assert selection_of(run) == selection_of(calm)
    assert coreset(remote) == coreset(str(tmp_path))


def test_a_bucket_that_is_not_there_is_one_message(s3):
    result = CliRunner().invoke(main, ["select", "s3://no-such-bucket/run"])
    assert result.exit_code == 1
    assert "no-such-bucket" in result.stderr


def test_a_noun_on_s3_that_lost_a_file_is_not_done(s3):
    """Its files are listed by their names below its folder, those in folders inside it too."""
    noun = Run("s3://bucket/lost/run").noun("models")
    noun.begin({"stage": "x"})
    noun.write_bytes("final/model.safetensors", b"weights")
    noun.write_json("history.json", [])
    first = noun.finish()
    assert noun.is_done(first.description)
    assert set(noun.read_json("files.json")) == {"final/model.safetensors", "history.json"}
    noun.write_bytes("final/model.safetensors", b"we")
    noun.filesystem.delete_file(f"{noun.folder}/history.json")
    assert noun.lost_files(first) == ["final/model.safetensors", "history.json"]
    assert not noun.is_done(first.description)


def test_the_records_of_a_finished_noun_on_s3_are_three_requests(s3):
    """However many shards there are: the listing, the size of the file, the file."""
    noun = Run("s3://bucket/many/run").noun("features")
    noun.begin({"stage": "x"})
    for shard in range(7):
        noun.commit_part(shard, pa.table({"key": [f"{shard}"]}), rows_in=1)
    singly = noun.records()
    noun.finish()
    s3.requests.clear()
    assert noun.records() == singly
    assert [line.split()[0] for line in s3.requests] == ["GET", "HEAD", "GET"]


def test_an_export_is_one_object_without_a_copy(s3):
    """What fails midway leaves the object of before; what ends replaces it, and nothing else lies beside it."""
    target = "s3://bucket/export/out.jsonl"
    sample = Sample((Message("user", "q"), Message("assistant", "a")))
    export_samples([sample], target, "swift")
    before = read_bytes(*resolve(target))

    def failing():
        yield sample
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        export_samples(failing(), target, "llava")
    assert read_bytes(*resolve(target)) == before
    filesystem, path = resolve("s3://bucket/export")
    assert [info.base_name for info in filesystem.get_file_info(pafs.FileSelector(path))] == ["out.jsonl"]


@pytest.mark.parametrize("name", ["swift", "parquet"])
def test_an_export_ends_where_the_server_copies_nothing(s3, name):
    """As one does of an object above its limit; a move there, which is a copy, fails."""
    sample = Sample((Message("user", "q"), Message("assistant", "a")))
    target = f"s3://bucket/limited/out.{name}"
    s3.refuses_copies = True
    try:
        assert export_samples([sample], target, name).rows == 1
        filesystem, path = resolve(target)
        assert filesystem.get_file_info(path).size > 0
        with pytest.raises(OSError, match="larger than the maximum allowable size"):
            filesystem.move(path, f"{path}.moved")
    finally:
        s3.refuses_copies = False
