"""Rows that tell of a test set are marked with the reason, from samples of the run or from a file."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from raycurate.cleaning.config import DecontaminateConfig
from raycurate.cli.main import main
from raycurate.errors import UserError
from raycurate.settings import make_config
from raycurate.stages.decontaminate import decontaminate
from tests.cleaning.cleaning_runs import ANSWER, LONG, TRAIN, _row, crop_of, ingested, marks_of, write_source

TEST = [
    _row("t1", "what IS it?", "a  boat", "1.png"),
    _row("t2", "Anything at all?", "no", "0-again.png"),
    _row("t3", "And here?", "nothing", "crop.png"),
    _row("t4", LONG.replace("small", "little").replace("wooden", "round"), ANSWER, "6.png"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_source(tmp_path_factory.mktemp("source"))
    crop_of(folder, "crop.png", 4)
    (folder / "test.json").write_text(json.dumps(TEST), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    run = ingested(source, tmp_path_factory.mktemp("run") / "run")
    ingested(source, run.uri, source=f"{source}/test.json", label="test")
    decontaminate(run, make_config(DecontaminateConfig, {"against": "test"}))
    return run


def test_each_row_has_its_reason_and_its_test_row(run):
    """The row itself, a picture, one encoded anew, a crop of one of two pictures, most of the words."""
    found = {name: (row["reason"], row["like_source_id"]) for name, row in marks_of(run, "decontaminate").items()}
    assert len(found) == len(TRAIN)
    expected = {
        "a3": ("test_image", "t2"),
        "a1": ("test_near_image", "t2"),
        "a7": ("test_row", "t1"),
        "c1": ("test_near_image", "t3"),
        "b1": ("test_text", "t4"),
        "b4": ("test_text", "t4"),
    }
    assert {name: found[name] for name in expected} == expected
    assert all(found[name] == (None, None) for name in ("a6", "b3", "d1", "d4"))


def test_a_file_is_read_as_ingest_reads_it(run, source):
    """The same marks from `test.json`, ingested under a label of its own; again it is not read a second time."""
    config = {"against": f"{source}/test.json", "label": "file"}
    manifest = decontaminate(run, make_config(DecontaminateConfig, config))
    assert marks_of(run, "file") == marks_of(run, "decontaminate")
    assert decontaminate(run, make_config(DecontaminateConfig, config)).created == manifest.created
    assert sum(noun.noun == "samples" for noun in run.nouns()) == 3


def test_the_division_of_the_work_changes_nothing(run, source, tmp_path):
    """One shard or many."""
    for number, shard in enumerate((2, 100)):
        other = ingested(source, tmp_path / str(number), rows_per_shard=shard)
        ingested(source, other.uri, source=f"{source}/test.json", label="test", rows_per_shard=shard)
        decontaminate(other, make_config(DecontaminateConfig, {"against": "test"}))
        assert marks_of(other, "decontaminate") == marks_of(run, "decontaminate")


def test_the_same_rows_are_no_test_set(run):
    with pytest.raises(UserError, match="compared with themselves"):
        decontaminate(run, make_config(DecontaminateConfig, {"against": "main"}))


def test_a_label_that_is_not_there_is_told_with_those_that_are(run):
    """A slip in a label is not taken for the name of a file alone."""
    with pytest.raises(UserError, match=r"against 'tset' is neither samples of this run \(.*main, test\) nor a file"):
        decontaminate(run, make_config(DecontaminateConfig, {"against": "tset"}))


def test_a_test_set_that_is_not_there_is_an_error(run):
    with pytest.raises(UserError, match="nowhere.json"):
        decontaminate(run, make_config(DecontaminateConfig, {"against": "nowhere.json"}))


def test_the_command_shows_what_is_like_what(run):
    """Reasons with examples, by the ids of the sources."""
    output = CliRunner().invoke(main, ["--quiet", "decontaminate", run.uri, "--against", "test"]).output
    for text in ("test_row", "test_near_image", "a7", "t1"):
        assert text in output
