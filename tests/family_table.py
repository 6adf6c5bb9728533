"""The table of families in `raycurate/models/README.md`, which the tests hold to what they measure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import raycurate.models

USES = ("extract", "score", "train", "generate")


@dataclass(frozen=True)
class Family:
    """A row: which uses work, and the words of the error of those that do not."""

    name: str
    works: dict[str, bool]
    reason: str


def read_families() -> dict[str, Family]:
    """Every family that is right for a use or more."""
    found = {}
    for cells in _rows(columns=6):
        name, *marks, reason = cells
        found[name.strip("`")] = Family(
            name.strip("`"), {use: m == "yes" for use, m in zip(USES, marks, strict=True)}, reason
        )
    return found


def read_further() -> dict[str, list[str]]:
    """Every family that is right for all uses with further packages, and which."""
    return {name.strip("`"): packages.split(", ") for name, packages, _ in _rows(columns=3)}


def read_refused() -> dict[str, str]:
    """Every family that is refused before a row is read, and words of the reason."""
    return {name.strip("`"): reason for names, reason in _rows(columns=2) for name in names.split(", ")}


def _rows(columns: int) -> list[list[str]]:
    text = (Path(raycurate.models.__path__[0]) / "README.md").read_text("utf-8")
    rows = [line.strip("|").split("|") for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in rows if len(row) == columns]
