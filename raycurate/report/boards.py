"""What trainings came to: scoreboards, sweeps, choices, weights of tasks, candidates, and the curves of finetunes."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

from raycurate.report.charts import Interval
from raycurate.run.filesystem import exists, read_bytes
from raycurate.run.store import Noun, Run

TABLES = {
    "scoreboard": "scoreboard.csv",
    "sweeps": "results.csv",
    "individual_select": "results.csv",
    "weightings": "scoreboard.csv",
    "scaling": "scaling.csv",
}
"""Kind of noun -> its table."""
MOST_ROWS = 60


@dataclass(frozen=True, slots=True)
class Board:
    """One finished experiment.

    Attributes:
        title: noun and label.
        headings: of the table.
        rows: cells as text.
        left_out: further rows of the table.
        intervals: differences to `against`, by what they are compared with.
        at_chance: tasks that do not count, with why.
        why: of a choice.
    """

    title: str
    headings: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    left_out: int = 0
    intervals: dict[str, list[Interval]] = field(default_factory=dict)
    at_chance: list[str] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of tasks that `balance` made."""

    title: str
    weights: dict[str, float]


def boards_of(run: Run) -> list[Board]:
    """Every finished experiment with a table, in the order of the data."""
    return [
        _board(noun)
        for noun in run.nouns()
        if (noun.noun in TABLES or noun.noun == "choices") and noun.manifest() is not None
    ]


def _board(noun: Noun) -> Board:
    headings, rows = _table(noun)
    evidence = noun.read_json("evidence.json") or {}
    intervals: dict[str, list[Interval]] = {}
    for name, found in evidence.get("differences", {}).items():
        if found["percent"] is not None:
            low, high = found["interval"] or (None, None)
            intervals.setdefault(found["against"], []).append(Interval(name, found["percent"], low, high))
    choice = (noun.read_json("choice.json") or {}) if noun.noun == "choices" else {}
    return Board(
        title=f"{noun.noun}/{noun.label}",
        headings=headings,
        rows=rows[:MOST_ROWS],
        left_out=max(0, len(rows) - MOST_ROWS),
        intervals=intervals,
        at_chance=sorted(evidence.get("at_chance", {})),
        why=str(choice.get("why", "")),
    )


def _table(noun: Noun) -> tuple[list[str], list[list[str]]]:
    path = f"{noun.folder}/{TABLES.get(noun.noun, 'none')}"
    if not exists(noun.filesystem, path):
        return [], []
    lines = list(csv.reader(io.StringIO(read_bytes(noun.filesystem, path).decode())))
    return (lines[0], [[_short(cell) for cell in line] for line in lines[1:]]) if lines else ([], [])


def _short(cell: str) -> str:
    """A number with four digits, other text as it is."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    return f"{number:.4g}" if "." in cell or "e" in cell else cell


def weights_of_run(run: Run) -> list[Weights]:
    """The weights of every finished `balance`."""
    found = []
    for noun in run.nouns():
        value: dict[str, Any] = (noun.read_json("weights.json") or {}) if noun.noun == "balance" else {}
        if value.get("weights") and noun.manifest() is not None:
            found.append(Weights(f"{noun.noun}/{noun.label}", dict(value["weights"])))
    return found
