"""What the experiments write: tables as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycurate.experiments.engine.results import Row, to_csv
from raycurate.run.store import Noun


def to_markdown(rows: Sequence[Row]) -> str:
    """A table of rows with the same columns; numbers are rounded to three decimals, a missing value is empty."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(noun: Noun, name: str, rows: Sequence[Row]) -> None:
    """A table as `name.csv`."""
    noun.write_bytes(f"{name}.csv", to_csv(rows).encode())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")
