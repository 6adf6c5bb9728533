"""The scoreboard: one line per (method, seed), one column per metric of a task, and what each line cost.

Beside the scores a line has Rel.% against `reference` (finetuning on everything), Delta% and E% against `base`
(single-task models, say), wall clock, cost, and the cost as a share of the reference's. The reference scores are
the means over the reference's seeds. A method's summary is the mean and the sample standard deviation over its
seeds with the number n of values behind them; one value has no deviation.

Nothing is averaged over a hole. A line that lacks a score has that cell empty and no relative figure, and a note
says so; the method's mean of the figure is over the other seeds, with its n. A score that is not finite counts as
missing. A column whose reference score is zero or negative has no ratio: it is left out of the relative figures
of *every* line, so that lines stay comparable, and a note says so; with no column left there is no figure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raycurate.errors import UserError, unknown_name
from raycurate.evaluation.relative import (
    Column,
    Key,
    delta_percent,
    error_percent,
    relative_percent,
    task_improvements,
)

__all__ = ["FIGURES", "Column", "Line", "MethodSummary", "Result", "Scoreboard", "Statistic", "build_scoreboard"]

FIGURES = ("rel_percent", "delta_percent", "error_percent", "wall_seconds", "cost", "cost_share_percent")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one run of one method brought.

    Attributes:
        method: its name; the results of a method differ in their seed.
        seed: any integer.
        scores: score by (task, metric).
        wall_seconds: selection, finetune and all else that the method needed; None where unknown.
        cost: in one unit for the whole board, such as GPU hours or dollars; None where unknown.
    """

    method: str
    seed: int
    scores: Mapping[Key, float]
    wall_seconds: float | None = None
    cost: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One run: `scores` in the order of the board's columns, `figures` by the names in `FIGURES`; None is a hole."""

    method: str
    seed: int
    scores: tuple[float | None, ...]
    figures: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """Mean and sample standard deviation of n values; None where n is too small."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSummary:
    """All seeds of one method, in the order of the board's columns and by the names in `FIGURES`."""

    method: str
    seeds: tuple[int, ...]
    scores: tuple[Statistic, ...]
    figures: Mapping[str, Statistic]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoreboard:
    """The whole table; `formats.py` writes it as Markdown, CSV and JSON."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    methods: tuple[MethodSummary, ...]
    reference: str | None
    base: str | None
    cost_unit: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Yardstick:
    """A reference's mean scores, and the columns in which they can be divided by."""

    scores: Mapping[Key, float]
    columns: tuple[Column, ...]


def build_scoreboard(
    columns: Sequence[Column],
    results: Sequence[Result],
    *,
    reference: str | None = None,
    base: str | None = None,
    cost_unit: str = "",
    left_out: Mapping[str, str] | None = None,
) -> Scoreboard:
    """Return the scoreboard of `results`, methods in the order of their first result.

    Args:
        columns: every (task, metric), with its direction.
        results: one per (method, seed).
        reference: the method that Rel.% and the cost share are relative to; None for neither.
        base: the method that Delta% and E% are relative to; None for neither.
        cost_unit: the unit of `Result.cost`, for the headings.
        left_out: tasks that do not count in Rel.%, with why.

    Raises:
        UserError: no column, a column or a (method, seed) twice, a score of no column, or an unknown method.
    """
    _check(columns, results, [name for name in (reference, base) if name is not None])
    cells = [_cells(columns, result) for result in results]
    notes = [note for result in results for note in _holes(columns, result)]
    full, full_notes = _yardstick(columns, results, cells, reference, "Rel.%", left_out or {})
    before, before_notes = _yardstick(columns, results, cells, base, "Delta% and E%", {})
    full_cost, cost_notes = _reference_cost(results, reference)
    lines = []
    for result, scores in zip(results, cells, strict=True):
        figures = _figures(result, _improvements(scores, full), _improvements(scores, before), full_cost)
        row = tuple(scores.get(column.key) for column in columns)
        lines.append(Line(method=result.method, seed=result.seed, scores=row, figures=figures))
    return Scoreboard(
        columns=tuple(columns),
        lines=tuple(lines),
        methods=_summaries(lines),
        reference=reference,
        base=base,
        cost_unit=cost_unit,
        notes=tuple([*notes, *full_notes, *before_notes, *cost_notes]),
    )


def summarize(values: Iterable[float | None]) -> Statistic:
    """Return mean, sample standard deviation and number of the values that are there."""
    found = [value for value in values if value is not None]
    return Statistic(
        mean=statistics.fmean(found) if found else None,
        std=statistics.stdev(found) if len(found) > 1 else None,
        n=len(found),
    )


def _check(columns: Sequence[Column], results: Sequence[Result], named: Sequence[str]) -> None:
    keys = [column.key for column in columns]
    if not keys:
        raise UserError("a scoreboard needs at least one column, a metric of a task")
    for kind, items in (("column", keys), ("result", [(result.method, result.seed) for result in results])):
        twice = next((item for place, item in enumerate(items) if item in items[:place]), None)
        if twice is not None:
            raise UserError(f"{kind} {twice} is given twice; a scoreboard needs each once")
    for result in results:
        for task, metric in result.scores:
            if (task, metric) not in keys:
                names = [f"{known}/{other}" for known, other in keys]
                raise unknown_name(f"column in the scores of '{result.method}'", f"{task}/{metric}", names)
    methods = {result.method for result in results}
    for name in named:
        if name not in methods:
            raise unknown_name("method on the scoreboard", name, methods)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _cells(columns: Sequence[Column], result: Result) -> dict[Key, float]:
    found = ((column.key, _finite(result.scores.get(column.key))) for column in columns)
    return {key: value for key, value in found if value is not None}


def _holes(columns: Sequence[Column], result: Result) -> list[str]:
    notes = []
    for column in columns:
        if _finite(result.scores.get(column.key)) is None:
            what = f"scored {result.scores[column.key]}" if column.key in result.scores else "has no score"
            notes.append(f"{result.method} (seed {result.seed}) {what} in {label(column)}")
    return notes


def label(column: Column) -> str:
    """Return the column's full name, task/metric."""
    return f"{column.task}/{column.metric}"


def _yardstick(
    columns: Sequence[Column],
    results: Sequence[Result],
    cells: Sequence[Mapping[Key, float]],
    name: str | None,
    figure: str,
    left_out: Mapping[str, str],
) -> tuple[_Yardstick | None, list[str]]:
    if name is None:
        return None, []
    told = [f"left out of {figure} in every line: {task}, where {why}" for task, why in left_out.items()]
    columns = [column for column in columns if column.task not in left_out]
    own = [scores for result, scores in zip(results, cells, strict=True) if result.method == name]
    means = {column.key: summarize(scores.get(column.key) for scores in own).mean for column in columns}
    lacking = [label(column) for column in columns if means[column.key] is None]
    if lacking:
        return None, [*told, f"'{name}' has no score in {', '.join(lacking)}: no {figure} anywhere"]
    known = {key: value for key, value in means.items() if value is not None}
    usable = tuple(column for column in columns if known[column.key] > 0)
    notes = [
        f"'{name}' scores {known[column.key]:g} in {label(column)}, so no ratio to it exists: "
        f"left out of {figure} in every line"
        for column in columns
        if column not in usable
    ]
    return (_Yardstick(known, usable) if usable else None), [*told, *notes]


def _improvements(scores: Mapping[Key, float], yardstick: _Yardstick | None) -> dict[str, float] | None:
    """Return the improvement by task, or None where a needed score is missing."""
    if yardstick is None or any(column.key not in scores for column in yardstick.columns):
        return None
    return task_improvements(scores, yardstick.scores, yardstick.columns)


def _figures(
    result: Result,
    over_full: Mapping[str, float] | None,
    over_base: Mapping[str, float] | None,
    full_cost: float | None,
) -> dict[str, float | None]:
    cost = _finite(result.cost)
    values = (
        relative_percent(over_full) if over_full else None,
        delta_percent(over_base) if over_base else None,
        error_percent(over_base) if over_base else None,
        _finite(result.wall_seconds),
        cost,
        None if cost is None or full_cost is None else 100 * cost / full_cost,
    )
    return dict(zip(FIGURES, values, strict=True))


def _reference_cost(results: Sequence[Result], reference: str | None) -> tuple[float | None, list[str]]:
    if reference is None or all(result.cost is None for result in results):
        return None, []
    cost = summarize(_finite(result.cost) for result in results if result.method == reference).mean
    if cost is None or cost <= 0:
        return None, [f"'{reference}' has no cost above zero: no cost share"]
    return cost, []


def _summaries(lines: Sequence[Line]) -> tuple[MethodSummary, ...]:
    by_method: dict[str, list[Line]] = {}
    for line in lines:
        by_method.setdefault(line.method, []).append(line)
    return tuple(
        MethodSummary(
            method=method,
            seeds=tuple(line.seed for line in own),
            scores=tuple(summarize(values) for values in zip(*(line.scores for line in own), strict=True)),
            figures={name: summarize(line.figures[name] for line in own) for name in FIGURES},
        )
        for method, own in by_method.items()
    )
