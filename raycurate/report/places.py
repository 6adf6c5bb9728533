"""Where a page may be written: where nothing is, or over a page of raycurate. Asked before any work is done."""

from __future__ import annotations

import pyarrow.fs as pafs

from raycurate.errors import UserError
from raycurate.run.filesystem import absolute, resolve
from raycurate.run.store import Run

MADE_BY = b"<footer>raycurate "
"""In every page, at its end."""
TAIL = 8 << 10
"""Bytes of the end of a page that hold its footer and its script."""
INDEX = "index.html"


def page_place(run: Run, label: str, out: str | None) -> str:
    """Where the report of a selection goes: `out`, or into the run directory.

    Raises:
        UserError: something else lies there.
    """
    name = "report.html" if label == "main" else f"report-{label}.html"
    place = absolute(out) if out is not None else f"{run.uri.rstrip('/')}/{name}"
    check_page(place)
    return place


def check_page(place: str) -> None:
    """Raise `UserError` where a page would be written over what is no page of raycurate."""
    filesystem, path = resolve(place)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.Directory:
        raise UserError(f"{place} is a folder; name an HTML file, such as {place.rstrip('/')}/report.html")
    if info.type != pafs.FileType.NotFound and not _is_page(filesystem, info):
        raise UserError(f"{place} is there and is no page of raycurate; give another name, or remove it first")


def check_folder(run: Run, folder: str) -> None:
    """Raise `UserError` for a file, for a folder whose index is another's, and for the run directory itself."""
    filesystem, path = resolve(absolute(folder))
    if absolute(folder).rstrip("/") == absolute(run.uri).rstrip("/"):
        raise UserError(f"--folder {folder} is the run directory; give a folder of its own, such as {folder}/report")
    if filesystem.get_file_info(path).type not in (pafs.FileType.NotFound, pafs.FileType.Directory):
        raise UserError(f"--folder {folder} is a file; give a new folder, or one that a report was written to before")
    index = filesystem.get_file_info(f"{path}/{INDEX}")
    if index.type != pafs.FileType.NotFound and not _is_page(filesystem, index):
        raise UserError(f"--folder {folder} has an {INDEX} that is no report of raycurate; give another folder")


def _is_page(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> bool:
    """Whether a file ends as pages do, or is empty."""
    if not info.is_file:
        return False
    with filesystem.open_input_file(info.path) as file:
        file.seek(max(0, info.size - TAIL))
        return info.size == 0 or MADE_BY in file.read()
