"""The task of a row: where the source says it, in which of its many ways, or unknown.

Without a column that the user names it is, in this order: the column ``task``; the first rule of the task map that
holds; the columns of other published names (``COLUMNS``), also inside ``metadata`` or the first turn of ``texts``; the
folder of the row's file, in a source of several such folders (a hub checkout with a folder for each subset).
A value of another column than ``task`` that is no name (an address, a long text, a number) is passed over.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.splits import SPLIT_NAMES
from raycurate.samples.tables import value_at
from raycurate.samples.tasks import MAX_TASK_CHARS, UNKNOWN_TASK

TASK = "task"
COLUMNS = (TASK, "source", "data_source", "task_name", "channel", "dataset_name", "metadata")
"""Columns of a table that may name the task, or hold what does."""
_FOUND = ("source", "data_source", "task_name", "channel", "dataset_name", "metadata.dataset")
FOLDER, RULES = "the folder of the file", "the task map"
_PLAIN_FOLDERS = frozenset({"data", "default", "shards", "parquet", "json", "annotations", *SPLIT_NAMES})


def find_task(
    row: Mapping[str, Any],
    file: str,
    column: str | None,
    by_rules: Callable[[], str | None],
    check: Callable[[str, str], None],
    *,
    by_folder: bool,
) -> tuple[str, str]:
    """The task, and what said it. Raises ``FaultError`` for a named column that holds no name.

    Args:
        row: as it was read.
        file: that it is of.
        column: that the user names; every row must have it, or a rule that matches it.
        by_rules: the task by the user's task map.
        check: raises for characters that a name must not have.
        by_folder: the file's folder names a task.
    """
    named = _named(value_at(row, column or TASK), column or TASK, check)
    if named is not None:
        return named, f"'{column or TASK}'"
    if (task := by_rules()) is not None:
        return task, RULES
    if column is not None:
        raise FaultError(Reason.MISSING_TASK, f"the row has no '{column}' and no task rule matches it")
    for name in _FOUND:
        if (task := _plain_name(value_at(row, name))) is not None:
            return task, f"'{name}'"
    texts = row.get("texts")
    first = texts[0] if isinstance(texts, list) and texts else None
    if isinstance(first, Mapping) and (task := _plain_name(first.get("source"))) is not None:
        return task, "'texts[].source'"
    if by_folder and (task := folder_task(file)) is not None:
        return task, FOLDER
    return UNKNOWN_TASK, ""


def folder_task(file: str) -> str | None:
    """The folder of a file as a task, without the folders that name a split or nothing."""
    parts = [part for part in posixpath.dirname(file).split("/") if part.lower() not in _PLAIN_FOLDERS]
    return _plain_name("/".join(part for part in parts if part not in ("", ".", "..")))


def folders_are_tasks(files: Iterable[str]) -> bool:
    """Whether the files of a source lie in several folders, which then may stand for tasks."""
    return len({folder_task(file) for file in files} - {None}) > 1


def _named(value: Any, column: str, check: Callable[[str, str], None]) -> str | None:
    if isinstance(value, float):  # a column of whole numbers with a gap, as pandas writes it
        value = None if value != value else int(value) if value.is_integer() else value
    if value is not None and not isinstance(value, (str, int)):
        raise FaultError(Reason.WRONG_TYPE, f"'{column}' is of type {type(value).__name__}, not a name")
    if value is None or not str(value).strip():
        return None
    name = str(value).strip()
    check(name, f"'{column}'")
    if len(name) > MAX_TASK_CHARS:
        raise FaultError(Reason.OVERLONG, f"'{column}' has {len(name)} characters")
    return name


def _plain_name(value: Any) -> str | None:
    """A text that can be the name of a task."""
    if not isinstance(value, str) or not 0 < len(value.strip()) <= MAX_TASK_CHARS:
        return None
    name = value.strip()
    return name if name.isprintable() and "://" not in name else None
