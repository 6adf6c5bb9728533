"""Whether images are those that were seen: by content, read only where a time of change says that it may differ."""

from __future__ import annotations

import os
import shutil

import pytest

from raycurate.samples.images import ImageRoot
from raycurate.samples.schema import ImageRef
from raycurate.samples.seen import WatchedRoot, compare, digest_of, seen_table, states_of


@pytest.fixture
def folder(tmp_path):
    """Three files and a name without one."""
    for name in "abc":
        (tmp_path / name).write_bytes(b"image " + name.encode())
    return tmp_path


def _seen(folder, *, read=True):
    root = WatchedRoot(str(folder))
    paths = ["a", "b", "c", "none"]
    states = states_of(root, paths)
    for path in paths[:3] if read else ():
        root.read(ImageRef(path=path))
    return seen_table(paths, states, root)


def test_an_edit_is_seen_whatever_its_times_say(folder):
    """Of the same size, with the old time put back; a touched or copied file is the same."""
    seen = _seen(folder)
    root = ImageRoot(str(folder))
    assert compare(seen, root)[:2] == ([], [])
    status = (folder / "a").stat()
    (folder / "a").write_bytes(b"IMAGE a")
    os.utime(folder / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "b").touch()
    shutil.copy(folder / "c", folder / "copy")
    os.replace(folder / "copy", folder / "c")
    replaced, others, newer = compare(seen, root)
    assert (replaced, others) == (["a"], [])
    assert digest_of(newer) == digest_of(seen), "times are no content"
    (folder / "a").write_bytes(b"image a")
    (folder / "none").write_bytes(b"came")
    (folder / "b").unlink()
    assert compare(newer, root)[:2] == ([], ["b", "none"])


def test_files_nobody_wrote_to_are_not_read(folder, monkeypatch):
    """Also in a table that has no second time; it is noted then."""
    seen = _seen(folder)
    monkeypatch.setattr(ImageRoot, "read", lambda *_: pytest.fail("an image was read"))
    older = seen.drop_columns(["entry"])
    _, _, newer = compare(older, ImageRoot(str(folder)))
    assert newer.equals(seen)
    assert compare(newer, ImageRoot(str(folder)))[2].equals(seen)


def test_what_was_never_read_is_known_by_size_and_time(folder):
    """`check_images: false`: a copy that keeps the time is the same, another time is another image."""
    seen = _seen(folder, read=False)
    shutil.copy2(folder / "a", folder / "copy")
    os.replace(folder / "copy", folder / "a")
    assert compare(seen, ImageRoot(str(folder)))[:2] == ([], [])
    (folder / "b").touch()
    assert compare(seen, ImageRoot(str(folder)))[:2] == (["b"], [])


def test_in_another_folder_sizes_must_do(folder, tmp_path_factory):
    """An image root that was moved: its times say nothing."""
    seen = _seen(folder)
    moved = tmp_path_factory.mktemp("moved")
    for name in "ab":
        (moved / name).write_bytes(b"image " + name.encode())
    (moved / "c").write_bytes(b"longer image")
    assert compare(seen, ImageRoot(str(moved)), moved=True)[:2] == (["c"], [])
