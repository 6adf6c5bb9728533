"""The files of a source: a file, folder, glob or URI, or a list of these, on any pyarrow filesystem, in sorted order.

Files whose name begins with ``.`` or ``_`` are not data. In globs ``*`` and ``?`` stay inside one folder, ``**`` does
not.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.fs as pafs

from raycurate.errors import UserError
from raycurate.run.filesystem import resolve
from raycurate.samples.rows import SourceFile

_WILDCARD = re.compile(r"[*?\[]")


def list_source(source: str | Sequence[str]) -> tuple[SourceFile, ...]:
    """Every file of the source, named by its path below the deepest folder that holds all of them.

    Raises ``UserError`` where nothing is there.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise UserError("the source is an empty list; give a file, a folder or a glob")
    found: dict[str, tuple[str, int]] = {}
    for one in sources:
        for uri, path, size in _expand(one):
            found[uri] = (path, size)
    folders = {posixpath.dirname(path) for path, _ in found.values()}
    base = folders.pop() if len(folders) == 1 else posixpath.commonpath(folders)
    files = [SourceFile(posixpath.relpath(path, base or "."), uri, size) for uri, (path, size) in found.items()]
    return tuple(sorted(files, key=lambda file: (file.name, file.uri)))


def is_missing(source: str) -> bool:
    """Whether nothing is at a local path, and no file matches a local glob; of URIs only listing tells."""
    if "://" in source:
        return False
    if _WILDCARD.search(source):
        return not glob.glob(source, recursive=True)
    return not os.path.exists(source) or (os.path.isdir(source) and not os.listdir(source))


def folder_of(source: str | Sequence[str]) -> str | None:
    """The source as the URI of one folder, or None where it is anything else."""
    if not isinstance(source, str):
        return None
    filesystem, path = _locate(source)
    if filesystem.get_file_info(path).type != pafs.FileType.Directory:
        return None
    return source.rstrip("/")


def open_file(uri: str, *, mapped: bool = False) -> pa.NativeFile:
    """A seekable input file (``mapped`` into memory where it is local); a ``UserError`` where it cannot be opened."""
    filesystem, path = resolve(uri)
    try:
        if mapped and isinstance(filesystem, pafs.LocalFileSystem):
            return pa.memory_map(path)
        return filesystem.open_input_file(path)
    except OSError as error:
        raise UserError(f"cannot read {uri}: {error}") from None


def _locate(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        return resolve(uri)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use the source '{uri}': {error}") from None


def _expand(source: str) -> list[tuple[str, str, int]]:
    """``(uri, path, bytes)`` of the files that one string names."""
    filesystem, path = _locate(source)
    prefix = source[: -len(path)] if "://" in source and source.endswith(path) else ""
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [(prefix + path, path, info.size)]
    if info.type == pafs.FileType.Directory:
        files = _walk(filesystem, path)
        if not files:
            raise UserError(f"the source folder {source} holds no files")
    elif _WILDCARD.search(path):
        literal = _WILDCARD.split(path, maxsplit=1)[0]
        pattern = _glob_pattern(path)
        files = [f for f in _walk(filesystem, posixpath.dirname(literal)) if pattern.fullmatch(f.path)]
        if not files:
            raise UserError(f"no file matches the source {source}")
    else:
        raise UserError(f"the source {source} does not exist. Check the path; it may be a file, a folder or a glob.")
    return [(prefix + file.path, file.path, file.size) for file in files]


def _walk(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(folder or ".", recursive=True, allow_not_found=True)
    files = [info for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
    hidden = re.compile(r"(^|/)[._]")
    return [info for info in files if not hidden.search(info.path[len(folder) :])]


def _glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression over whole paths."""
    parts: list[str] = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", glob, re.DOTALL):
        if token == "**/":
            parts.append("(?:.*/)?")
        elif token == "**":
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 1:
            parts.append("[" + token[1:-1].replace("!", "^", 1).replace("\\", r"\\") + "]")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts), re.DOTALL)
