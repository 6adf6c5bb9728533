"""The figures of each kind of experiment, from the JSON that it leaves beside its tables.

models             loss of each task over the steps, as small panels on one log scale
sweeps             methods by score at each budget; the shares of tasks as multiples of their own, on a log shade
balance            what tasks give and take (Eq. 3 of CoTBal), their difficulties and weights
individual_select  gains beside what they had to reach; the curve of categories beside the sum of single gains
transferability    measured gain beside the cosine that stands for it; the gain of each pair
scaling            score by rows
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from markupsafe import Markup

from raycurate.report.curves import Ranged, Series, line_chart, panel, range_chart, scatter, thinned
from raycurate.report.heat import heat_map
from raycurate.run.store import Noun, Run

MOST_PANELS, MOST_TASKS = 48, 40
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, or several small ones with their names, and the sentence that says what one sees."""

    text: str
    chart: Markup = Markup("")
    panels: Sequence[tuple[str, Markup]] = field(default_factory=tuple)


def figures_of(noun: Noun) -> list[Figure]:
    """The figures of a finished experiment; none where its kind has none or its file is gone."""
    maker = FIGURES.get(noun.noun)
    if maker is None:
        return []
    file, figures = maker
    value = noun.read_json(file)
    return [] if value is None else [each for each in figures(value) if each.chart or each.panels]


def trainings_of(run: Run, selection: str) -> list[tuple[str, list[Figure]]]:
    """Name and curves of the finished trainings on a selection."""
    found = []
    for noun in run.nouns():
        manifest = noun.manifest() if noun.noun == "models" else None
        if manifest is None or manifest.description["config"].get("selection") != selection:
            continue
        steps = manifest.metrics.get("steps")
        own = _panels(noun.read_json("history.json") or [])
        if own and steps and steps > 1:
            found.append((f"models/{noun.label}", own))
    return found


def _panels(history: Rows) -> list[Figure]:
    """The loss of each task; those that were trained on most tokens first."""
    tokens: dict[str, float] = {}
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in history:
        for name, loss in row.items():
            task = name.removeprefix("loss/")
            if task == name or loss is None:
                continue
            weight = float(row.get(f"tokens/{task}") or 0.0)
            tokens[task] = tokens.get(task, 0.0) + weight
            points.setdefault(task, []).append((float(row["step"]), float(loss), weight))
    names = sorted((task for task in tokens if tokens[task] > 0), key=lambda task: (-tokens[task], task))
    curves = {task: thinned(points[task]) for task in names[:MOST_PANELS]}
    if not curves:
        return []
    values = [y for curve in curves.values() for _, y in curve]
    last = f"{history[-1]['step']:,.0f}"
    text = f"Loss of each task over {last} steps, most tokens first, all on one log scale; the number is the last mean."
    if len(names) > MOST_PANELS:
        text += f" The first {MOST_PANELS} of {len(names)} tasks."
    panels = [(task, panel(task, curve, (min(values), max(values)))) for task, curve in curves.items()]
    return [Figure(text, panels=panels)]


def _sweep(value: Mapping[str, Any]) -> list[Figure]:
    trials, tasks = value["trials"], value["tasks"]
    figures = []
    for ratio in sorted({row["ratio"] for row in trials if row["ratio"] < 1}):
        own = [row for row in trials if row["ratio"] == ratio]
        figures.append(_scores(own, ratio))
        figures.append(_distances(own, ratio))
        figures.append(_shares([row for row in tasks if row["ratio"] == ratio], ratio))
    return figures


def _series(row: Mapping[str, Any]) -> str:
    return row["method"] if row["temperature"] is None else f"{row['method']}, T {row['temperature']:g}"


def _by_series(rows: Rows, column: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(column) is not None:
            found.setdefault(_series(row), []).append(float(row[column]))
    return found


def _ranged(name: str, values: Sequence[float], note: str, *, strong: bool = True) -> Ranged:
    several = len(values) > 1
    return Ranged(name, fmean(values), min(values) if several else None, max(values) if several else None, note, strong)


def _scores(trials: Rows, ratio: float) -> Figure:
    """Rel.% of each method at one budget, the best first."""
    found = _by_series(trials, "rel_percent")
    order = sorted(found, key=lambda name: (-fmean(found[name]), name))
    rows = [_ranged(name, found[name], f"{fmean(found[name]):.1f} %, {_seeds(found[name])}") for name in order]
    text = (
        f"Scores at {100 * ratio:.3g} % of all rows, in percent of training on all of them: mean, and range over seeds."
    )
    return Figure(text, range_chart(rows, text, "percent of the scores of all rows"))


def _distances(trials: Rows, ratio: float) -> Figure:
    """MMD^2 of each method at one budget as a multiple of a random draw's, the nearest first."""
    found = _by_series(trials, "mmd2")
    drawn = next((fmean(found[name]) for name in ("random", "stratified") if name in found), 0.0)
    if drawn <= 0 or len(found) < 2:
        return Figure("")
    named = "random" if "random" in found else "stratified"
    parts = {name: [max(value, 0.0) / drawn for value in values] for name, values in found.items()}
    order = sorted(parts, key=lambda name: (fmean(parts[name]), name))
    rows = [_ranged(name, parts[name], f"{fmean(parts[name]):.2f}×, {_seeds(parts[name])}") for name in order]
    text = f"How far the kept rows lie from all rows at {100 * ratio:.3g} % of them (MMD²), beside a draw by '{named}'."
    return Figure(text, range_chart(rows, text, f"multiple of the distance of '{named}' (log scale)", log=True))


def _seeds(values: Sequence[float]) -> str:
    return "1 seed" if len(values) == 1 else f"{len(values)} seeds"


def _shares(tasks: Rows, ratio: float) -> Figure:
    """Of each task its share of the kept rows over its own share, by method."""
    names = list(dict.fromkeys(row["task"] for row in sorted(tasks, key=lambda row: (-row["rows"], row["task"]))))
    methods = list(dict.fromkeys(_series(row) for row in tasks))
    values_RC = np.full((min(len(names), MOST_TASKS), len(methods)), np.nan)
    for place, task in enumerate(names[:MOST_TASKS]):
        own = _by_series([row for row in tasks if row["task"] == task], "share_after")
        before = next(row["share_before"] for row in tasks if row["task"] == task)
        for column, method in enumerate(methods):
            if method in own and before > 0:
                values_RC[place, column] = max(fmean(own[method]) / before, 1 / 64)
    text = f"Share of each task at {100 * ratio:.3g} % of all rows over its own share; mean over seeds, largest first."
    logs_RC = np.log2(values_RC)
    return Figure(text, heat_map(logs_RC, names[:MOST_TASKS], methods, text, show=_times))


def _times(power: float) -> str:
    return "0" if power <= -6 else f"{2.0**power:.2f}×"


def _balance(value: Mapping[str, Any]) -> list[Figure]:
    units, gives = value["units"], value["contributions"]
    names = list(gives)[:MOST_TASKS]
    values_NN = np.array([[np.nan if a == b else gives[a][b] for b in names] for a in names], dtype=np.float64)
    weights = sorted(value["weights"].items(), key=lambda item: (-item[1], item[0]))[:MOST_TASKS]
    hard = sorted(units, key=lambda unit: (-units[unit]["difficulty"], unit))[:MOST_TASKS]
    text = "What each task (row) gives to each other (column): its gain there, as a part of what that task's rows gain."
    return [
        Figure(text, heat_map(values_NN, names, names, text)),
        Figure(
            "Difficulty: the part of a task's score that its mini set alone does not reach.",
            range_chart(
                [Ranged(unit, units[unit]["difficulty"], note=f"{units[unit]['difficulty']:.3f}") for unit in hard],
                "Difficulty of each task", "difficulty", zero=True,
            ),
        ),
        Figure(
            f"The weights that follow, at temperature {value['temperature']:.3g}; 1 is the loss as it is.",
            range_chart(
                [Ranged(task, weight, note=f"{weight:.2f}×") for task, weight in weights],
                "Weight of each task", "weight of the task's loss (log scale)", log=True,
            ),
        ),
    ]  # fmt: skip


def _individual(value: Mapping[str, Any]) -> list[Figure]:
    """Gains, then the curve where something was chosen."""
    threshold, base = value["config"]["threshold_sds"], value["baseline"]
    rows = [
        Ranged(
            row["dataset"], row["gain"], note=f"{row['gain']:+.2f}, {'chosen' if row['chosen'] else 'not chosen'}",
            strong=row["chosen"], needed=threshold * row["baseline_sd"],
        )
        for row in sorted(value["decisions"], key=lambda row: (-row["gain"], row["dataset"]))
    ]  # fmt: skip
    text = f"Gain of each candidate over the baseline of {base['mean']:.1f} points; the tick is what it had to reach."
    figures = [Figure(text, range_chart(rows, text, "gain in points of 100", zero=True))]
    curve = value["curve"]
    if len(curve) > 1:
        summed = [(place, base["mean"] + step["summed_gain"]) for place, step in enumerate(curve)]
        measured = [(place, step["score"]) for place, step in enumerate(curve)]
        ticks = ["baseline", *(f"+ {step['category']}" for step in curve[1:])]
        text = "Score as the chosen datasets join category by category, beside the sum of their single gains."
        series = [Series("sum of single gains", summed, strong=False), Series("measured", measured)]
        figures.append(Figure(text, line_chart(series, text, ("categories that have joined", "mean score"), ticks)))
    return figures


def _transferability(value: Mapping[str, Any]) -> list[Figure]:
    sources, pairs = value["sources"], value["pairs"]
    text = "Each source cluster: what its rows gain for others, measured, over the mean cosine that stands for it."
    points = [(row["S"], row["T"], f"cluster {row['cluster']}") for row in sources]
    names = ("S: mean cosine to all clusters", "T: mean fall of the loss")
    rows, columns = (list(dict.fromkeys(str(pair[side]) for pair in pairs)) for side in ("source", "target"))
    gains = {(str(pair["source"]), str(pair["target"])): pair["gain"] for pair in pairs}
    values_RC = np.array([[gains.get((a, b), np.nan) for b in columns] for a in rows], dtype=np.float64)
    other = "Fall of the loss of each target cluster (column) by the rows of each source cluster (row)."
    return [Figure(text, scatter(points, text, names)), Figure(other, heat_map(values_RC, rows, columns, other))]


def _scaling(value: Mapping[str, Any]) -> list[Figure]:
    points = [(float(row["size"]), row["score"]) for row in value["sizes"]]
    text = "Mean score of the benchmarks by rows that were trained on."
    return [Figure(text, line_chart([Series("mean", points)], text, ("rows (log scale)", "mean score")))]


FIGURES: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], list[Figure]]]] = {
    "sweeps": ("results.json", _sweep),
    "balance": ("weights.json", _balance),
    "individual_select": ("results.json", _individual),
    "transferability": ("results.json", _transferability),
    "scaling": ("results.json", _scaling),
}
"""Kind of noun -> the file and what draws it."""
