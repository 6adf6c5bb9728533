"""The figures of the results of each kind of experiment, from the JSON that it leaves beside its tables.

sweeps             methods by score at each budget, and by what they cost with the front; distances to all rows; the
                   shares of tasks as multiples of their own, on a log shade
balance            what tasks give and take (Eq. 3 of CoTBal), their difficulties and weights
individual_select  gains beside what they had to reach, by benchmark; the curve of categories beside the sum of gains
transferability    measured gain beside the cosine that stands for it; the gain of each pair
scaling            score by rows, of all benchmarks and of each

Ranges are over seeds, wherever there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from markupsafe import Markup

from raycurate.charts.curves import Ranged, Series, line_chart, range_chart, scatter
from raycurate.charts.heat import heat_map
from raycurate.charts.trade_off import Offer, trade_off

MOST_TASKS = 40
TRAINING = ("size", "seed", "steps", "loss", "score")
"""Columns of a training of `scaling` that are no benchmark."""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, or several small ones with their names, and the sentence that says what one sees.

    Attributes:
        name: of its file.
        text: what one sees.
        chart: drawn; empty where there are only words, or panels.
        panels: small charts with their names.
    """

    name: str
    text: str
    chart: Markup = Markup("")
    panels: Sequence[tuple[str, Markup]] = field(default_factory=tuple)


def _sweep(value: Mapping[str, Any]) -> list[Figure]:
    trials, tasks = value["trials"], value["tasks"]
    figures = []
    for ratio in sorted({row["ratio"] for row in trials if row["ratio"] < 1}):
        own = [row for row in trials if row["ratio"] == ratio]
        figures.append(_scores(own, ratio))
        figures.append(_trade_off(own, ratio))
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
    return Figure(f"scores-{ratio:g}", text, range_chart(rows, text, "percent of the scores of all rows"))


def _trade_off(trials: Rows, ratio: float) -> Figure:
    """Cost against Rel.% of each method at one budget; means over seeds."""
    gains, costs = _by_series(trials, "rel_percent"), _by_series(trials, "cost_seconds")
    ranged = [_ranged(name, gains[name], "") for name in gains if name in costs]
    offers = [Offer(each.name, fmean(costs[each.name]), each.value, each.low, each.high) for each in ranged]
    text = (
        f"Cost of selection and training at {100 * ratio:.3g} % of all rows against the score: mean over seeds, and "
        "range. Nothing costs less and scores more than what lies on the line."
    )
    names = ("cost in seconds", "percent of the scores of all rows")
    return Figure(f"pareto-{ratio:g}", text, trade_off(offers, text, names))


def _distances(trials: Rows, ratio: float) -> Figure:
    """MMD^2 of each method at one budget, the nearest first; multiples of a random draw's, where there is one."""
    found = _by_series(trials, "mmd2")
    base = next((name for name in ("random", "stratified") if name in found and fmean(found[name]) > 0), None)
    name, text = (
        f"distances-{ratio:g}",
        f"How far the kept rows lie from all rows at {100 * ratio:.3g} % of them (MMD²)",
    )
    if base is None or len(found) < 2:
        rows = [_ranged(each, found[each], f"{fmean(found[each]):.3g}, {_seeds(found[each])}") for each in found]
        return Figure(name, f"{text}.", range_chart(_lowest(rows), text, "MMD² to all rows", zero=True))
    drawn = fmean(found[base])
    parts = {each: [max(value, 0.0) / drawn for value in values] for each, values in found.items()}
    rows = [_ranged(each, parts[each], f"{fmean(parts[each]):.2f}×, {_seeds(parts[each])}") for each in parts]
    unit = f"multiple of the distance of '{base}' (log scale)"
    return Figure(name, f"{text}, beside a draw by '{base}'.", range_chart(_lowest(rows), text, unit, log=True))


def _lowest(rows: Sequence[Ranged]) -> list[Ranged]:
    return sorted(rows, key=lambda each: (each.value, each.name))


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
    chart = heat_map(logs_RC, names[:MOST_TASKS], methods, text, show=_times)
    return Figure(f"shares-{ratio:g}", text, chart)


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
        Figure("contributions", text, heat_map(values_NN, names, names, text)),
        Figure(
            "difficulties",
            "Difficulty: the part of a task's score that its mini set alone does not reach.",
            range_chart(
                [Ranged(unit, units[unit]["difficulty"], note=f"{units[unit]['difficulty']:.3f}") for unit in hard],
                "Difficulty of each task", "difficulty", zero=True,
            ),
        ),
        Figure(
            "weights",
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
    figures = [Figure("gains", text, range_chart(rows, text, "gain in points of 100", zero=True))]
    figures.append(_deltas(value))
    curve = value["curve"]
    if len(curve) > 1:
        summed = [(place, base["mean"] + step["summed_gain"]) for place, step in enumerate(curve)]
        measured = [(place, step["score"]) for place, step in enumerate(curve)]
        ticks = ["baseline", *(f"+ {step['category']}" for step in curve[1:])]
        text = "Score as the chosen datasets join category by category, beside the sum of their single gains."
        series = [Series("sum of single gains", summed, strong=False), Series("measured", measured)]
        names = ("categories that have joined", "mean score")
        figures.append(Figure("curve", text, line_chart(series, text, names, ticks)))
    return figures


def _deltas(value: Mapping[str, Any]) -> Figure:
    """Candidates by benchmarks: the change against the baseline."""
    names, decisions = list(value["baseline"].get("benchmarks", ())), value["decisions"]
    deltas_CB = np.array([[row[f"delta {name}"] for name in names] for row in decisions], dtype=np.float64)
    text = "Change of each benchmark (column) by each candidate (row), in points of 100."
    return Figure("deltas", text, heat_map(deltas_CB, [row["dataset"] for row in decisions], names, text))


def _transferability(value: Mapping[str, Any]) -> list[Figure]:
    sources, pairs = value["sources"], value["pairs"]
    text = "Each source cluster: what its rows gain for others, measured, over the mean cosine that stands for it."
    text += _correlations(value.get("correlation with S", {}))
    points = [(row["S"], row["T"], f"cluster {row['cluster']}") for row in sources]
    names = ("S: mean cosine to all clusters", "T: mean fall of the loss")
    rows, columns = (list(dict.fromkeys(str(pair[side]) for pair in pairs)) for side in ("source", "target"))
    gains = {(str(pair["source"]), str(pair["target"])): pair["gain"] for pair in pairs}
    values_RC = np.array([[gains.get((a, b), np.nan) for b in columns] for a in rows], dtype=np.float64)
    other = "Fall of the loss of each target cluster (column) by the rows of each source cluster (row)."
    return [
        Figure("scatter", text, scatter(points, text, names)),
        Figure("gains", other, heat_map(values_RC, rows, columns, other)),
    ]


def _correlations(found: Mapping[str, Any]) -> str:
    """Both coefficients in words, with their intervals."""
    known = [(name, each) for name, each in found.items() if isinstance(each, Mapping) and each["value"] is not None]
    told = [f"{name.capitalize()} {e['value']:.3f} ({e['low']:.3f} to {e['high']:.3f})" for name, e in known]
    return f" {', '.join(told)}." if told else ""


def _scaling(value: Mapping[str, Any]) -> list[Figure]:
    """The mean over seeds, the benchmarks behind it."""
    sizes, trainings = value["sizes"], value.get("trainings", ())
    text = "Mean score of the benchmarks by rows that were trained on; each benchmark pale."
    names = [name for name in (trainings[0] if trainings else ()) if name not in TRAINING]
    series = []
    for name in names:
        own = [(row["size"], [each[name] for each in trainings if each["size"] == row["size"]]) for row in sizes]
        series.append(Series(name, [(float(size), fmean(scores)) for size, scores in own], strong=False))
    series.append(Series("mean", [(float(row["size"]), row["score"]) for row in sizes]))
    return [Figure("scaling", text, line_chart(series, text, ("rows (log scale)", "score of 100")))]


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], list[Figure]]] = {
    "sweeps": _sweep,
    "balance": _balance,
    "individual_select": _individual,
    "transferability": _transferability,
    "scaling": _scaling,
}
"""Kind of noun -> what draws its results."""


def drawn(kind: str, value: Mapping[str, Any]) -> list[Figure]:
    """The figures of the results of a kind of noun that have something to show."""
    return [each for each in FIGURES[kind](value) if each.chart]
