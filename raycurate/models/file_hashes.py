"""Hashes of large files by content, kept per user so that the second look at a file costs one `stat`.

A file is read through in pieces of 1 MiB, several files at a time (about 1 GB/s a core; hashing leaves Python's lock).
What was found is noted in ``$XDG_CACHE_HOME/raycurate/file-hashes`` (``~/.cache`` by default) beside what the file
system said of the file: device, inode, size, times of change of content and of the entry itself. A note counts only
while all of these are the same, so a file that was replaced, or written to with its old time put back, is read again.

A file that changed a moment ago is not noted: another write within the same tick of the clock would not be seen.
Files below ``NOTED_BYTES`` are read every time. Where the cache cannot be written, nothing is noted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PIECE_BYTES = 1 << 20
NOTED_BYTES = 1 << 20
SETTLED_SECONDS = 2.0
THREADS = 4


def hash_files(paths: Sequence[Path]) -> list[str]:
    """Hex blake2b-128 of each file's content, in order. Raises OSError for a file that cannot be read."""
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        return list(pool.map(hash_file, paths))


def hash_file(path: Path) -> str:
    """Hex blake2b-128 of a file's content."""
    seen = _state_of(path)
    size = path.stat().st_size
    note = _note_of(path) if size >= NOTED_BYTES else None
    if note is not None and (known := _read_note(note, seen)) is not None:
        return known
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    found = digest.hexdigest()
    settled = time.time_ns() - max(seen[3:]) > SETTLED_SECONDS * 1e9
    if note is not None and settled and _state_of(path) == seen:
        _write_note(note, seen, found)
    return found


def _state_of(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _note_of(path: Path) -> Path:
    """Where the hash of a file is noted."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.blake2b(os.path.realpath(path).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return Path(base) / "raycurate" / "file-hashes" / f"{name}.json"


def _read_note(note: Path, seen: list[int]) -> str | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        value = json.loads(note.read_text(encoding="utf-8"))
        if value["seen"] == seen:
            return str(value["digest"])
    return None


def _write_note(note: Path, seen: list[int], digest: str) -> None:
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_name(f".{note.name}-{uuid.uuid4().hex}")
        partial.write_text(json.dumps({"seen": seen, "digest": digest}), encoding="utf-8")
        os.replace(partial, note)
