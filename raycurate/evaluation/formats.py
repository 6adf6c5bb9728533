"""The scoreboard as Markdown to read, CSV to compute with, and JSON to build on.

- Markdown: a table of methods (mean +- sample deviation over seeds, n where it differs from the seeds of the line),
  a table of the single runs where a method has several, the notes. A hole is "-".
- CSV: one row per run (`statistic` = run) and three per method (mean, std, n); a hole is an empty field.
- JSON: the same, nested, with the directions of the metrics; a hole is null. Numbers are full floats.

Figures that no line has are left out of the Markdown. Names come from datasets and are not trusted: they cannot
break a table, carry HTML or start a spreadsheet formula.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from raycurate.evaluation.relative import Column
from raycurate.evaluation.scoreboard import FIGURES, Line, MethodSummary, Scoreboard, Statistic, label

HOLE = "-"
_MARKS = re.compile(r"[\\|`*\[\]]")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def to_json(board: Scoreboard) -> str:
    """Return the scoreboard as JSON text."""
    return json.dumps(_record(board), indent=1, allow_nan=False) + "\n"


def to_csv(board: Scoreboard) -> str:
    """Return the scoreboard as CSV text with a header and Unix line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "statistic", *(_safe(label(column)) for column in board.columns), *FIGURES])
    for line in board.lines:
        values = [*line.scores, *(line.figures[name] for name in FIGURES)]
        writer.writerow([_safe(line.method), line.seed, "run", *map(_field, values)])
    for method in board.methods:
        statistics = [*method.scores, *(method.figures[name] for name in FIGURES)]
        for part in ("mean", "std", "n"):
            values = [getattr(statistic, part) for statistic in statistics]
            writer.writerow([_safe(method.method), "", part, *map(_field, values)])
    return text.getvalue()


def to_markdown(board: Scoreboard) -> str:
    """Return the scoreboard as Markdown text."""
    shown = [name for name in FIGURES if any(line.figures[name] is not None for line in board.lines)]
    headings = [*_score_headings(board.columns), *(_figure_heading(board, name) for name in shown)]
    parts = [markdown_table(["method", "seeds", *headings], [_method_cells(method, shown) for method in board.methods])]
    if len(board.lines) > len(board.methods):
        parts.append(markdown_table(["method", "seed", *headings], [_line_cells(line, shown) for line in board.lines]))
    if board.notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in board.notes))
    return "\n\n".join(parts) + "\n"


def _record(board: Scoreboard) -> dict[str, Any]:
    columns = [
        {"task": column.task, "metric": column.metric, "higher_is_better": column.higher_is_better}
        for column in board.columns
    ]
    lines = [
        {"method": line.method, "seed": line.seed, "scores": list(line.scores), **line.figures} for line in board.lines
    ]
    methods = [
        {
            "method": method.method,
            "seeds": list(method.seeds),
            "scores": [_statistic(statistic) for statistic in method.scores],
            **{name: _statistic(statistic) for name, statistic in method.figures.items()},
        }
        for method in board.methods
    ]
    head = {"reference": board.reference, "base": board.base, "cost_unit": board.cost_unit}
    return {**head, "columns": columns, "lines": lines, "methods": methods, "notes": list(board.notes)}


def _statistic(statistic: Statistic) -> dict[str, float | int | None]:
    return {"mean": statistic.mean, "std": statistic.std, "n": statistic.n}


def _safe(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA_STARTS) else name


def _field(value: float | None) -> str:
    return "" if value is None else repr(value)


def _score_headings(columns: Sequence[Column]) -> list[str]:
    tasks = [column.task for column in columns]
    return [
        (column.task if tasks.count(column.task) == 1 else label(column))
        + ("" if column.higher_is_better else " (lower)")
        for column in columns
    ]


def _figure_heading(board: Scoreboard, name: str) -> str:
    cost = f"cost ({board.cost_unit})" if board.cost_unit else "cost"
    headings = {
        "rel_percent": f"Rel.% of {board.reference}",
        "delta_percent": f"Delta% over {board.base}",
        "error_percent": f"E% over {board.base}",
        "wall_seconds": "wall clock (s)",
        "cost": cost,
        "cost_share_percent": f"cost % of {board.reference}",
    }
    return headings[name]


def _method_cells(method: MethodSummary, shown: Sequence[str]) -> list[str]:
    statistics = [*method.scores, *(method.figures[name] for name in shown)]
    seeds = len(method.seeds)
    return [method.method, str(seeds), *(_mean_and_std(statistic, seeds) for statistic in statistics)]


def _line_cells(line: Line, shown: Sequence[str]) -> list[str]:
    values = [*line.scores, *(line.figures[name] for name in shown)]
    numbers = [HOLE if value is None else f"{value:.{_digits(value)}f}" for value in values]
    return [line.method, str(line.seed), *numbers]


def _mean_and_std(statistic: Statistic, seeds: int) -> str:
    if statistic.mean is None:
        return HOLE
    digits = _digits(statistic.mean)
    text = f"{statistic.mean:.{digits}f}"
    if statistic.std is not None:
        text += f" +- {statistic.std:.{digits}f}"
    return text if statistic.n == seeds else f"{text} (n={statistic.n})"


def _digits(value: float) -> int:
    """Return the decimals that give about four significant digits."""
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4 if abs(value) < 1 else 3


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with text in the first column; what stands in the cells cannot break it."""
    marks = ["---", *["---:"] * (len(headings) - 1)]
    lines = [list(map(_escape, headings)), marks, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))
