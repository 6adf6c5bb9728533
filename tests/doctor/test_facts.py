"""What is found out about a machine."""

from __future__ import annotations

from raycurate.doctor.facts import can_write


def test_a_folder_counts_as_writable_where_a_file_can_be_made(tmp_path):
    """Whoever asks: root has the right to write in /proc, and can make no file there. Nothing is left."""
    assert can_write(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert not can_write(str(tmp_path / "file"))
    assert not can_write("/proc")
