"""Whether the files of a source are those that samples were made from: by content where they lie on disks.

    URI, size, time of change, time of change of the entry, hash of the content

A file whose size and both times are as noted is the same one: the second time cannot be put back. Any other is read
and compared by its hash, so a touched or copied file is no other one, and an edit whose old time was put back is. On an
object store, which sets its times itself, and for samples whose source was not hashed, size and time decide.

Cost: a `stat` per file; once, and for each file whose times have changed, one sequential read of it, in tasks, many
files at a time (about 1 GB/s a core where the disk gives that much).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from raycurate.models.file_hashes import hash_file
from raycurate.run.filesystem import resolve
from raycurate.run.store import Noun

SOURCE_FILES = "source.json"
"""Beside samples: the states of the files of their source."""
MapFiles = Callable[..., Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class FileState:
    """What is known of a file; ``entry_changed`` and ``digest`` are None where it lies on an object store."""

    uri: str
    size: int
    changed: int | None
    entry_changed: int | None = None
    digest: str | None = None

    def is_like(self, other: FileState) -> bool:
        """Whether two looks at a file saw the same one, as far as it can be told without reading it."""
        both = (self.entry_changed, other.entry_changed)
        return (self.size, self.changed) == (other.size, other.changed) and (None in both or both[0] == both[1])

    @property
    def fact(self) -> int | str | None:
        """What tells this content from another of the same size."""
        return self.digest or self.changed


def look_at(uri: str) -> FileState:
    """A file as it is now, not read; of size -1 where it is gone."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem) and os.path.isfile(path):
        status = os.stat(path)
        return FileState(uri, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    info = filesystem.get_file_info(path)
    return FileState(uri, info.size if info.is_file else -1, info.mtime_ns)


def noted_states(noun: Noun) -> dict[str, FileState]:
    """What was noted of the source of samples, by URI."""
    return {values[0]: FileState(*values) for values in noun.read_json(SOURCE_FILES) or ()}


def note_states(noun: Noun, states: Sequence[FileState]) -> None:
    """Note the files that samples are made from."""
    noun.write_json(SOURCE_FILES, [list(astuple(state)) for state in states])


def states_now(noun: Noun, uris: Sequence[str], map_files: MapFiles) -> list[FileState]:
    """The files of a source as they are now, with their hashes; those that are as noted are not read.

    Args:
        noun: the samples.
        uris: of the files.
        map_files: applies a function to many tuples of arguments, in tasks.
    """
    noted = noted_states(noun)
    now = {uri: look_at(uri) for uri in uris}
    known = {uri: noted[uri].digest for uri in uris if uri in noted and noted[uri].is_like(now[uri])}
    to_read = ((uri,) for uri in uris if uri not in known and now[uri].entry_changed is not None)
    known |= dict(map_files(_hash, to_read))
    return [replace(now[uri], digest=known.get(uri)) for uri in uris]


def source_changed(noun: Noun) -> bool:
    """Whether a file of the source of samples holds something else now, or is gone.

    Raises:
        OSError: a store cannot be reached, which is tried once, and no file elsewhere has changed.
    """
    unreached: dict[str, OSError] = {}
    for state in noted_states(noun).values():
        store = urlsplit(state.uri).netloc or state.uri
        try:
            if store not in unreached and _is_other(state):
                return True
        except OSError as error:
            unreached[store] = error
    if unreached:
        raise next(iter(unreached.values()))
    return False


def _is_other(noted: FileState) -> bool:
    now = look_at(noted.uri)
    if noted.is_like(now):
        return False
    if now.size != noted.size or noted.digest is None or now.entry_changed is None:
        return True
    return _hash(noted.uri)[1] != noted.digest


def _hash(uri: str) -> tuple[str, str]:
    return uri, hash_file(Path(resolve(uri)[1]))
