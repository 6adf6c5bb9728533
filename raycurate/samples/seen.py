"""What `ingest` saw of each image below the image root, and whether it is still so.

    path, size (-1: not there), time of change, time of change of the entry, hash of the content where it was read

An image counts as the same if its size and both times are, or else if its content is: a copied folder is no other one,
and an edit whose old time was put back is, as nobody can put back the second one. Object stores have the first alone.
Where the content was not read (``check_images: false``) size and the first time decide.

Cost: a `stat` per distinct image of a shard; on an object store a request for each, many at a time; the images whose
time alone has changed are read once, and their new time is noted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raycurate.run.filesystem import resolve
from raycurate.samples.images import DEFAULT_LIMITS, ImageRoot
from raycurate.samples.quarantine import FaultError
from raycurate.samples.schema import ImageRef

SEEN_SCHEMA = pa.schema(
    [("path", pa.string()), ("size", pa.int64()), ("time", pa.int64()), ("entry", pa.int64()), ("digest", pa.string())]
)
State = tuple[int, int, int | None]
GONE: State = (-1, 0, None)


@dataclass(frozen=True)
class WatchedRoot(ImageRoot):
    """An image root that notes the hash of all that is read."""

    digests: dict[str, str] = field(default_factory=dict)

    def read(self, ref: ImageRef, max_bytes: int = DEFAULT_LIMITS.max_bytes) -> bytes:
        """As `ImageRoot.read`."""
        data = super().read(ref, max_bytes)
        if ref.path is not None and ref.data is None:
            self.digests[ref.path] = _digest(data)
        return data


def states_of(root: ImageRoot, paths: Sequence[str]) -> list[State]:
    """Size and times of change in ns of each image; `GONE` for what cannot be used."""
    if root.root is None:
        return [GONE] * len(paths)
    filesystem, folder = resolve(root.root)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return [_local_state(root, path) for path in paths]
    infos = filesystem.get_file_info([f"{folder}/{path}" for path in paths])
    return [(i.size, i.mtime_ns or 0, None) if i.type == pafs.FileType.File else GONE for i in infos]


def _local_state(root: ImageRoot, path: str) -> State:
    try:
        status = os.stat(root.locate(path)[1])
    except (FaultError, OSError, ValueError):
        return GONE
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def seen_table(paths: Sequence[str], states: Sequence[State], root: WatchedRoot) -> pa.Table:
    """What was seen of these images."""
    sizes, times, entries = ([state[i] for state in states] for i in range(3))
    columns = [list(paths), sizes, times, entries, [root.digests.get(path) for path in paths]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SEEN_SCHEMA, strict=True)], schema=SEEN_SCHEMA)


def digest_of(seen: pa.Table) -> str:
    """The hash of what was seen; times count only where the content was not read."""
    digest = hashlib.blake2b(digest_size=16)
    for row in seen.to_pylist():
        known = row["digest"] or f"{row['size']}:{row['time']}"
        digest.update(f"{row['path']}\0{known}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def compare(seen: pa.Table, root: ImageRoot, *, moved: bool = False) -> tuple[list[str], list[str], pa.Table]:
    """Images that are other ones now, images that came or went, and the table with the times of those that are alike.

    Args:
        seen: of a shard.
        root: where the images are now.
        moved: the root is not the one of the table: times say nothing, and sizes must do.
    """
    rows = seen.to_pylist()
    replaced: list[str] = []
    moved_in_or_out: list[str] = []
    for row, (size, time, entry) in zip(rows, states_of(root, seen["path"].to_pylist()), strict=True):
        if moved and size == row["size"]:
            continue
        if size != row["size"]:
            (moved_in_or_out if GONE[0] in (size, row["size"]) else replaced).append(row["path"])
        elif _is_other(root, row, time, entry):
            replaced.append(row["path"])
        else:
            row["time"], row["entry"] = time, entry
    return replaced, moved_in_or_out, pa.Table.from_pylist(rows, schema=SEEN_SCHEMA)


def _is_other(root: ImageRoot, row: Mapping[str, Any], time: int, entry: int | None) -> bool:
    """Whether an image of the noted size holds something else; it is read where a time of change says that it may."""
    entries = (entry, row.get("entry"))  # tables of before have no second time
    if time == row["time"] and (None in entries or entries[0] == entries[1]):
        return False
    if row["digest"] is None:
        return bool(time != row["time"])
    return _content(root, row["path"], row["size"]) != row["digest"]


def _content(root: ImageRoot, path: str, size: int) -> str | None:
    try:
        return _digest(root.read(ImageRef(path=path), max(size, 1)))
    except FaultError:
        return None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
