"""The files of a source are known by their content, without reading what nobody wrote to."""

from __future__ import annotations

import os
import time

import pytest

from raycurate.models import file_hashes
from raycurate.run.store import Run
from raycurate.stages.engine import source_check
from raycurate.stages.engine.source_check import FileState, note_states, source_changed, states_now


@pytest.fixture
def noun(tmp_path):
    return Run(str(tmp_path / "run")).noun("samples", "main")


def _here(function, arguments):
    return [function(*values) for values in arguments]


def _put_back(path, status):
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_touched_file_is_the_same_and_an_edit_with_its_old_time_is_not(noun, tmp_path):
    """Size and time of change decide nothing: the bytes do, for ingest and for status."""
    path = tmp_path / "rows.jsonl"
    path.write_text("a" * 100)
    first = states_now(noun, [str(path)], _here)
    note_states(noun, first)
    assert not source_changed(noun)
    os.utime(path, (1, 1))
    assert not source_changed(noun)
    assert [state.fact for state in states_now(noun, [str(path)], _here)] == [first[0].fact]
    status = path.stat()
    path.write_text("a" * 99 + "b")
    _put_back(path, status)
    assert source_changed(noun)
    assert [state.fact for state in states_now(noun, [str(path)], _here)] != [first[0].fact]
    path.unlink()
    assert source_changed(noun)


def test_a_file_nobody_wrote_to_is_not_read_again(noun, tmp_path, monkeypatch):
    """The second look at a source is a `stat` a file, also by another process without the user's cache."""
    paths = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for path in paths:
        path.write_text("rows of " + path.name)
    uris = [str(path) for path in paths]
    first = states_now(noun, uris, _here)
    note_states(noun, first)
    read = []
    monkeypatch.setattr("raycurate.stages.engine.source_check.hash_file", lambda path: (read.append(path.name), "x")[1])
    assert states_now(noun, uris, _here) == first
    assert not source_changed(noun)
    assert read == []
    paths[1].touch()
    states_now(noun, uris, _here)
    assert read == ["b.jsonl"]
    assert file_hashes.hash_file(paths[0]) == first[0].digest


def test_what_was_not_hashed_is_known_by_size_and_time(noun, tmp_path):
    """Objects of a store, and samples made before sources were hashed, keep what they are known by."""
    path = tmp_path / "rows.jsonl"
    path.write_text("rows")
    then = time.time_ns() - 10**10
    os.utime(path, ns=(then, then))
    note_states(noun, [FileState(str(path), 4, then)])
    assert not source_changed(noun)
    assert [state.fact for state in states_now(noun, [str(path)], _here)] == [then]
    path.touch()
    assert source_changed(noun)


def test_a_store_that_cannot_be_reached_is_asked_once_and_the_others_are_looked_at(noun, tmp_path, monkeypatch):
    """A change elsewhere is still seen; without one the error is told."""
    here = tmp_path / "rows.jsonl"
    here.write_text("rows")
    asked, local = [], source_check.look_at

    def look_at(uri):
        if uri.startswith("s3://"):
            asked.append(uri)
            raise OSError("no way to the bucket")
        return local(uri)

    monkeypatch.setattr(source_check, "look_at", look_at)
    states = [FileState(f"s3://gone/{name}", 4, 7) for name in "abc"]
    note_states(noun, [*states, *states_now(noun, [str(here)], _here)])
    with pytest.raises(OSError, match="no way to the bucket"):
        source_changed(noun)
    assert asked == ["s3://gone/a"]
    here.write_text("others")
    assert source_changed(noun)
