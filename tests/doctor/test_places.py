"""A run directory is tried as stages use it, and is left as it was."""

from __future__ import annotations

import os
from pathlib import Path

from raycurate.doctor.places import check_leftovers, check_place


def test_a_place_that_works_is_left_as_it_was(tmp_path):
    """A new one is not there afterwards, nor is what leads to it; one with files keeps them."""
    (found,) = check_place(str(tmp_path / "new" / "deep" / "run"))
    assert found.state == "ok"
    assert not (tmp_path / "new").exists()
    (tmp_path / "run.json").write_text("{}")
    assert check_place(str(tmp_path))[0].state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_place_that_is_a_file_cannot_be_written(tmp_path):
    """The step that fails is named."""
    (tmp_path / "file").write_text("")
    (found,) = check_place(str(tmp_path / "file"))
    assert (found.state, found.found.split(" in ")[0]) == ("fail", "cannot write")


def test_a_bucket_works_without_delete_rights_it_does_not(s3):
    """Writing in parts, reading, listing and deleting are tried; the missing right is named."""
    (found,) = check_place("s3://bucket/doctor/run")
    assert found.found.endswith("write, read, list, write in parts, delete")
    s3.denied = (b"POST /bucket?delete", b"DELETE ")
    try:
        (found,) = check_place("s3://bucket/doctor/run")
    finally:
        s3.denied = ()
    assert found.state == "fail"
    assert "cannot delete in s3://bucket/doctor/run" in found.found
    assert found.fix == "give the credentials s3:DeleteObject"


def test_a_bucket_that_is_not_there_is_told(s3):
    """In one line."""
    (found,) = check_place("s3://no-such-bucket/run")
    assert (found.state, found.found.count("\n")) == ("fail", 0)


def test_leftovers_are_deleted_only_when_asked_and_only_old_ones(tmp_path):
    """What a writer is at right now is younger than an hour."""
    old, young, other = (tmp_path / "samples" / name for name in (".tmp-a", ".tmp-b", "part.parquet"))
    old.parent.mkdir()
    for path in (old, young, other):
        path.write_text("x")
    for path in (old, other):
        os.utime(path, (1, 1))
    assert check_leftovers(str(tmp_path), fix=False).state == "warn"
    assert old.exists()
    assert check_leftovers(str(tmp_path), fix=True).found == "1 unfinished files deleted"
    assert sorted(p.name for p in Path(old.parent).iterdir()) == [".tmp-b", "part.parquet"]
