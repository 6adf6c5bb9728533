"""Which split (train, validation, test) each file of a source is of: by a hub checkout's README, or by its name.

A checkout says it in the front matter of its README (``configs: data_files: {split, path}``; a path alone is of the
split train); without that, a file is of a split whose name begins its own name, stands in it between separators, or is
a folder above it.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Sequence
from typing import Any

import yaml

from raycurate.errors import UserError
from raycurate.run.filesystem import exists, read_bytes, resolve
from raycurate.samples.rows import SourceFile

_SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
_SPLIT_OF = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}
SPLIT_NAMES = frozenset(_SPLIT_OF)
_NAMED = re.compile(rf"(?:^|[-_./])({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?=[-_./]|$)", re.IGNORECASE)


def splits_of(files: Sequence[SourceFile], folder: str | None) -> dict[str, list[SourceFile]]:
    """The files of each split that is named; files of no split are left out.

    Args:
        files: of the source.
        folder: the URI of the source where it is a folder, whose README may say it.
    """
    patterns = _declared(folder) if folder else []
    found: dict[str, list[SourceFile]] = {}
    for file in files:
        split = _split_by_pattern(file.name, patterns) if patterns else _split_by_name(file.name)
        if split is not None:
            found.setdefault(split, []).append(file)
    return found


def of_split(
    files: Sequence[SourceFile], folder: str | None, split: str, source: str | Sequence[str]
) -> tuple[SourceFile, ...]:
    """The files of one split. Raises `UserError` where no file is of it."""
    found = splits_of(files, folder)
    wanted = found.get(split) or found.get(_SPLIT_OF.get(split.lower(), split))
    if wanted is None:
        there = f"its files are of {', '.join(sorted(found))}" if found else "the names of its files tell no split"
        raise UserError(f"split is '{split}', and the source {source} has none of that name: {there}")
    return tuple(wanted)


def _split_by_name(name: str) -> str | None:
    """By the file's own name before the folders above it."""
    stem = posixpath.basename(name)
    own = _NAMED.search(stem)
    above = _NAMED.findall(posixpath.dirname(name))
    word = own[1] if own else above[-1] if above else None
    return None if word is None else _SPLIT_OF[word.lower()]


def _split_by_pattern(name: str, patterns: Sequence[tuple[str, str]]) -> str | None:
    return next((split for split, pattern in patterns if fnmatch.fnmatch(name, pattern)), None)


def _declared(folder: str) -> list[tuple[str, str]]:
    """(split, pattern) from the front matter of a README, none where it says nothing."""
    filesystem, path = resolve(folder)
    readme = posixpath.join(path, "README.md")
    if not exists(filesystem, readme):
        return []
    front = re.match(r"---\s*\n(.*?)\n---\s*\n", read_bytes(filesystem, readme).decode("utf-8", "replace"), re.DOTALL)
    try:
        values: Any = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return []
    configs = values.get("configs") if isinstance(values, dict) else None
    entries = [
        {"split": "train", "path": entry} if isinstance(entry, str) else entry
        for config in (configs if isinstance(configs, list) else [])
        if isinstance(config, dict)
        for entry in _as_list(config.get("data_files"))
        if isinstance(entry, str | dict)
    ]
    paths = [(str(e.get("split")), e["path"]) for e in entries if isinstance(e.get("path"), str | list)]
    return [
        (split, pattern)
        for split, found in paths
        for pattern in ([found] if isinstance(found, str) else map(str, found))
    ]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
