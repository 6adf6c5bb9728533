"""The run directory: nothing counts before its record, nothing is lost, a rerun continues."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from raycurate.errors import UserError
from raycurate.run.filesystem import or_null
from raycurate.run.store import Noun, Run

REJECTS = pa.table({"reason": ["image_corrupt", "image_corrupt", "no_answer"]})


def _table(rows: int) -> pa.Table:
    return pa.table({"key": [f"k{i}" for i in range(rows)]})


@pytest.fixture
def noun(tmp_path) -> Noun:
    noun = Run(str(tmp_path / "run")).noun("samples")
    noun.begin({"stage": "x", "seed": 1})
    return noun


def test_a_part_without_a_record_does_not_count(noun):
    """A crash between part and record leaves the shard to be made again."""
    noun.commit_part(0, _table(3), rows_in=3)
    noun.commit_part(1, _table(2), rows_in=2)
    noun.filesystem.delete_file(f"{noun.folder}/records/00001.json")
    assert noun.missing(3) == [1, 2]


def test_a_truncated_part_does_not_count(noun):
    """A part whose size is not the recorded one is made again."""
    noun.commit_part(0, _table(100), rows_in=100)
    with open(noun.part_path(0), "r+b") as stream:
        stream.truncate(10)
    assert noun.missing(1) == [0]


def test_a_record_must_add_up(noun):
    """Rows in must be rows out plus rows quarantined."""
    with pytest.raises(AssertionError, match="rows lost"):
        noun.commit_part(0, _table(3), rows_in=5)
    record = noun.commit_part(0, _table(3), rows_in=6, rejects=REJECTS)
    assert record.quarantined == {"image_corrupt": 2, "no_answer": 1}


def test_finish_sums_the_records(noun):
    """The manifest holds the totals by reason."""
    noun.commit_part(0, _table(3), rows_in=6, rejects=REJECTS)
    noun.commit_part(1, _table(4), rows_in=4)
    manifest = noun.finish(metrics={"a": 1})
    assert (manifest.rows_in, manifest.rows_out, manifest.quarantined) == (10, 7, {"image_corrupt": 2, "no_answer": 1})
    assert noun.manifest() == manifest
    assert noun.is_done({"stage": "x", "seed": 1})


def test_the_records_of_a_finished_noun_are_one_file_until_it_is_made_again(noun):
    """A reader then asks once; whoever goes on with the noun goes by each record itself."""
    for shard in range(3):
        noun.commit_part(shard, _table(shard + 1), rows_in=shard + 1)
    singly = noun.records()
    noun.finish()
    noun.filesystem.delete_dir(f"{noun.folder}/records")
    assert noun.records() == singly
    noun.begin({"stage": "x", "seed": 1})
    assert noun.missing(3) == [0, 1, 2]


def test_a_finished_noun_that_lost_a_part_is_not_done(noun):
    """A part deleted by hand is made again, and nothing else is."""
    for shard in range(2):
        noun.commit_part(shard, _table(2), rows_in=2)
    first = noun.finish()
    noun.filesystem.delete_file(noun.part_path(1))
    assert noun.lost_files(first) == ["part-00001.parquet"]
    assert not noun.is_done({"stage": "x", "seed": 1})
    noun.begin({"stage": "x", "seed": 1})
    assert noun.missing(2) == [1]
    noun.commit_part(1, _table(2), rows_in=2)
    assert noun.finish() == first
    assert noun.is_done({"stage": "x", "seed": 1})


@pytest.mark.parametrize(
    "name", ["part-00000.parquet", "centroids.parquet", "final/a.safetensors", "records/00000.json"]
)
@pytest.mark.parametrize("harm", ["gone", "cut short", "emptied"])
def test_a_finished_noun_that_lost_a_file_is_not_done(noun, name, harm):
    """Whatever the noun is made of: parts, tables beside them, a model; one that is cut short counts as gone."""
    noun.commit_part(0, _table(2), rows_in=2)
    noun.write_table("centroids.parquet", _table(3))
    noun.write_bytes("final/a.safetensors", b"weights")
    first = noun.finish()
    assert noun.lost_files(first) == []
    path = Path(noun.folder, name)
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(data[: len(data) // 2] if harm == "cut short" else b"")
    assert noun.lost_files(first) == [name]
    assert not noun.is_done({"stage": "x", "seed": 1})
    path.write_bytes(data)
    assert noun.is_done({"stage": "x", "seed": 1})


def test_what_a_noun_notes_beside_its_result_may_come_and_go(noun):
    """Notes of progress, of the source and of images, what is left of the work, a user's own files."""
    noun.commit_part(0, _table(2), rows_in=2)
    for name in ("progress.json", "source.json", "seen/00000.json", "checkpoints/1/state.json", "logs/events.json"):
        noun.write_json(name, [1])
    first = noun.finish()
    for name in ("progress.json", "source.json"):
        noun.write_json(name, [1, 2])
    for name in ("seen", "checkpoints", "logs"):
        noun.filesystem.delete_dir(f"{noun.folder}/{name}")
    noun.write_bytes("notes of mine.txt", b"x")
    assert noun.is_done(first.description)


def test_a_noun_that_lists_no_files_is_done_as_before(noun):
    """Made by an earlier version: its parts are looked for by name, and nothing else."""
    noun.commit_part(0, _table(2), rows_in=2)
    noun.write_table("centroids.parquet", _table(3))
    first = noun.finish()
    noun.filesystem.delete_file(f"{noun.folder}/files.json")
    noun.filesystem.delete_file(f"{noun.folder}/centroids.parquet")
    assert noun.is_done(first.description)
    noun.filesystem.delete_file(noun.part_path(0))
    assert noun.lost_files(first) == ["part-00000.parquet"]


@pytest.mark.parametrize("uri", ["{}/run/", "file://{}/run", "file://{}//run", "{}/other/../run"])
def test_files_are_listed_by_their_name_however_the_run_is_written(tmp_path, uri):
    """The names are those below the noun's folder: a run that is copied or named otherwise has lost nothing."""
    noun = Run(uri.format(tmp_path)).noun("models")
    noun.begin({"stage": "x"})
    noun.write_bytes("final/model.safetensors", b"weights")
    first = noun.finish()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for other in (f"{tmp_path}/run", f"file://{tmp_path}/run", f"{tmp_path}/copy"):
        assert Run(other).noun("models").lost_files(first) == []
    assert noun.read_json("files.json") == {"final/model.safetensors": 7}


def test_another_description_empties_the_noun(noun):
    """A changed setting never mixes with parts of the old one."""
    noun.commit_part(0, _table(3), rows_in=6, rejects=REJECTS)
    noun.finish()
    noun.begin({"stage": "x", "seed": 2})
    assert noun.manifest() is None
    assert noun.missing(1) == [0]
    assert not noun.is_done({"stage": "x", "seed": 1})


def test_the_same_description_keeps_what_is_there(noun):
    """Beginning again after a crash keeps committed shards."""
    noun.commit_part(0, _table(3), rows_in=3)
    noun.begin({"stage": "x", "seed": 1})
    assert noun.missing(2) == [1]


def test_what_was_foreseen_before_an_extension_counts_where_only_its_own_work_is_foreseen(noun):
    """As seconds add up over attempts; going on with an extension that was cut off adds nothing."""
    description = {"stage": "x", "seed": 1}
    noun.foresee(7.0)
    for _ in range(2):
        noun.extend({**description, "more": 1})
        noun.foresee(2.0, more=True)
    assert noun.finish().estimated_seconds == 9.0
    noun.extend({**description, "more": 2})
    noun.foresee(4.0)
    assert noun.finish().estimated_seconds == 4.0


def test_finish_removes_what_a_killed_writer_left(noun):
    """Temporary files of a dead process do not stay in a finished noun."""
    with open(f"{noun.folder}/.tmp-dead", "wb") as stream:
        stream.write(b"half")
    noun.finish()
    assert not noun.filesystem.get_file_info(f"{noun.folder}/.tmp-dead").is_file


def test_require_names_the_stage_to_run(noun):
    """A missing input says which command makes it."""
    with pytest.raises(UserError, match="Run `raycurate ingest` first"):
        noun.require("ingest")


def test_labels_cannot_leave_the_run(tmp_path):
    """A label is a plain name."""
    with pytest.raises(UserError, match="not a plain name"):
        Run(str(tmp_path)).noun("features", "../x")


def test_a_run_works_on_other_filesystems(tmp_path):
    """The same code runs on a URI as on a path."""
    noun = Run(f"file://{tmp_path}/run").noun("samples")
    noun.begin({"stage": "x"})
    noun.commit_part(0, _table(3), rows_in=3)
    noun.finish()
    assert Run(str(tmp_path / "run")).noun("samples").read_part(0).num_rows == 3


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_hold_is_named_and_not_written(noun, number):
    """No `NaN` in a file that calls itself JSON: whoever writes must say what it means."""
    with pytest.raises(UserError, match=f"results.json is not written: trials.1.loss is {number}, "):
        noun.write_json("results.json", {"trials": [{"loss": 0.5}, {"loss": number}]})
    assert noun.read_json("results.json") is None
    noun.write_json("results.json", or_null({"trials": [{"loss": number}, (1.0, "nan")]}))
    assert noun.read_json("results.json") == {"trials": [{"loss": None}, [1.0, "nan"]]}
