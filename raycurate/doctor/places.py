"""Whether a run directory can be used: written, read, listed, deleted, in several pieces at once where it is a store.

What is tried lies in ``RUN/.doctor-<random>`` and is gone afterwards, unless deleting is what fails. Cost: a few small
requests and one object of 6 MiB on a store, which pyarrow sends in parts as it does large features.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable

import pyarrow.fs as pafs

from raycurate.doctor.findings import Finding
from raycurate.errors import UserError
from raycurate.run.filesystem import (
    TEMPORARY,
    delete_folder,
    exists,
    file_sizes,
    read_bytes,
    resolve,
    write_bytes,
)

LARGE = 6 << 20
OLD_SECONDS = 3600.0
_RIGHTS = {
    "write": "s3:PutObject",
    "read": "s3:GetObject",
    "list": "s3:ListBucket",
    "write in parts": "s3:PutObject and s3:AbortMultipartUpload",
    "delete": "s3:DeleteObject",
}


def check_place(uri: str) -> list[Finding]:
    """Try everything that stages do in a run directory."""
    try:
        filesystem, path = resolve(uri)
    except (UserError, OSError, ValueError) as error:
        return [Finding("run directory", "fail", "", f"{uri}: {_first_line(error)}", "it is no place", "another URI")]
    local = isinstance(filesystem, pafs.LocalFileSystem)
    folder = f"{path.rstrip('/')}/.doctor-{uuid.uuid4().hex}"
    name = f"{folder}/probe"
    steps: list[tuple[str, Callable[[], bool]]] = [
        ("write", lambda: _is_written(filesystem, name, b"probe")),
        ("read", lambda: read_bytes(filesystem, name) == b"probe"),
        ("list", lambda: "probe" in file_sizes(filesystem, folder)),
    ]
    if not local:
        steps.append(("write in parts", lambda: _is_written(filesystem, f"{folder}/large", b"x" * LARGE)))
    steps.append(("delete", lambda: _is_deleted(filesystem, folder, name)))
    made = _first_missing(path) if local else None
    for step, attempt in steps:
        if found := _tried(uri, step, attempt, local=local):
            return [found]
    if made is not None:
        delete_folder(filesystem, made)
    return [Finding("run directory", "ok", "", f"{uri}: {', '.join(step for step, _ in steps)}")]


def _first_missing(path: str) -> str | None:
    """The highest folder on the way to a local one that is not there; None where it is."""
    missing = None
    while not os.path.lexists(path):
        missing, path = path, os.path.dirname(path.rstrip("/")) or "/"
    return missing


def _tried(uri: str, step: str, attempt: Callable[[], bool], *, local: bool) -> Finding | None:
    """What is wrong with one step, None where it works."""
    try:
        if attempt():
            return None
        told = "it seems to work, and nothing comes of it"
    except OSError as error:
        told = _first_line(error)
    fix = "chown or chmod the folder, or take another one" if local else f"give the credentials {_RIGHTS[step]}"
    meaning = "parts of earlier attempts cannot be replaced" if step == "delete" else "no stage can work there"
    return Finding("run directory", "fail", "", f"cannot {step} in {uri}: {told}", meaning, fix)


def _is_written(filesystem: pafs.FileSystem, path: str, data: bytes) -> bool:
    write_bytes(filesystem, path, data)
    return exists(filesystem, path)


def _is_deleted(filesystem: pafs.FileSystem, folder: str, name: str) -> bool:
    delete_folder(filesystem, folder)
    return not exists(filesystem, name)


def leftovers(uri: str) -> list[str]:
    """Files that a writer which was killed left behind in a local run directory, older than an hour."""
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return []  # a store shows no object before it is complete
    infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    before = time.time() - OLD_SECONDS
    return sorted(
        info.path
        for info in infos
        if info.is_file
        and info.base_name.startswith(TEMPORARY)
        and info.mtime is not None
        and info.mtime.timestamp() < before
    )


def check_leftovers(uri: str, *, fix: bool) -> Finding:
    """Tell of what killed writers left, or with `fix` delete it: the only thing that `doctor` ever changes."""
    found = leftovers(uri)
    if not found:
        return Finding("leftovers", "ok", "", "none in the run directory")
    if fix:
        filesystem, _ = resolve(uri)
        for path in found:
            filesystem.delete_file(path)
        return Finding("leftovers", "ok", "", f"{len(found)} unfinished files deleted")
    meaning = "killed writers left them; they take space and nothing reads them"
    shown, mends = f"{len(found)} unfinished files, as {found[0]}", f"raycurate doctor {uri} --fix"
    return Finding("leftovers", "warn", "", shown, meaning, mends)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
