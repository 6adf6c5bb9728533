"""What a run knows of its exports: where each lies, of which selection, and how its files looked when it was written.

One JSON per place in the run's folder ``exports``. A later export to the same place takes the note's place too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.fs as pafs

from raycurate.config import ExportConfig
from raycurate.run.filesystem import delete_folder, exists, list_files, read_json, resolve, write_json
from raycurate.run.store import Run
from raycurate.samples.file_readme import delete_readme

FOLDER = "exports"


@dataclass(frozen=True, slots=True)
class Exported:
    """A written export.

    Attributes:
        out: its path or URI.
        format: of it.
        selection: label of the selection whose rows it holds.
        fingerprint: of that selection.
        files: path below `out` ('' for a file) -> bytes and time of change in nanoseconds.
        settings: of the export; empty in notes of earlier versions.
    """

    out: str
    format: str
    selection: str
    fingerprint: str
    files: dict[str, list[int]]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_as_written(self) -> bool:
        """Whether what lies there is what was written there."""
        return _files_at(self.out) == self.files

    @property
    def is_there(self) -> bool:
        """Whether anything lies there."""
        return bool(_files_at(self.out))

    def delete(self, run: Run) -> None:
        """Remove it, and what the run knows of it."""
        filesystem, path = resolve(self.out)
        if "" in self.files:
            filesystem.delete_file(path)
            delete_readme(self.out)
        else:
            delete_folder(filesystem, path)
        self.drop(run)

    def drop(self, run: Run) -> None:
        """Remove what the run knows of it."""
        filesystem, note = _note(run, self.out)
        filesystem.delete_file(note)


def note_export(run: Run, config: ExportConfig, fingerprint: str) -> None:
    """Note in the run what was just written of the selection with this fingerprint."""
    filesystem, path = _note(run, config.out)
    settings = config.determining()
    note = Exported(config.out, config.format, config.selection, fingerprint, _files_at(config.out), settings)
    write_json(filesystem, path, asdict(note))


def noted_exports(run: Run) -> Iterator[Exported]:
    """The exports that were written from a run."""
    filesystem, root = resolve(run.uri)
    for info in list_files(filesystem, f"{root}/{FOLDER}", ".json"):
        yield Exported(**(read_json(filesystem, info.path) or {}))


def _note(run: Run, out: str) -> tuple[pafs.FileSystem, str]:
    filesystem, root = resolve(run.uri)
    return filesystem, f"{root}/{FOLDER}/{hashlib.blake2b(out.encode(), digest_size=8).hexdigest()}.json"


def _files_at(out: str) -> dict[str, list[int]]:
    """Bytes and time of the file at a path, or of the files in a folder there; empty where nothing is."""
    filesystem, path = resolve(out)
    if not exists(filesystem, path):
        return {}
    infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True)) if _is_folder(filesystem, path) else []
    infos = infos or [filesystem.get_file_info(path)]
    files = [info for info in infos if info.type == pafs.FileType.File]
    return {info.path[len(path) :].lstrip("/"): [info.size, info.mtime_ns or 0] for info in files}


def _is_folder(filesystem: pafs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == pafs.FileType.Directory)
