"""The figures of a run's nouns: of finished experiments, and the loss of each task of its trainings."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from raycurate.charts.curves import panel, thinned
from raycurate.charts.figures import FIGURES, Figure, drawn
from raycurate.run.filesystem import exists, read_bytes
from raycurate.run.store import Noun, Run

MOST_PANELS = 48
RESULTS, WEIGHTS, TIMINGS = "results.json", "weights.json", "timings.csv"
COST = "cost_seconds"
Rows = Sequence[Mapping[str, Any]]


def figures_of(noun: Noun) -> list[Figure]:
    """The figures of a finished experiment; none where its kind has none or its file is gone."""
    if noun.noun not in FIGURES:
        return []
    value = noun.read_json(WEIGHTS if noun.noun == "balance" else RESULTS)
    if value is not None and noun.noun == "sweeps":
        value = {**value, "trials": _with_costs(noun, value["trials"])}
    return [] if value is None else drawn(noun.noun, value)


def _with_costs(noun: Noun, trials: Rows) -> Rows:
    """Trials with what they cost, which lies apart as it is a time."""
    path = f"{noun.folder}/{TIMINGS}"
    if not exists(noun.filesystem, path):
        return trials
    lines = csv.DictReader(io.StringIO(read_bytes(noun.filesystem, path).decode()))
    costs = {line["label"]: float(line[COST]) for line in lines if line.get(COST)}
    return [{**row, COST: costs.get(row.get("label", ""))} for row in trials]


def trainings_of(run: Run, selection: str) -> list[tuple[Noun, list[Figure]]]:
    """The models and the curves of the finished trainings on a selection."""
    found = []
    for noun in run.nouns():
        manifest = noun.manifest() if noun.noun == "models" else None
        if manifest is None or manifest.description["config"].get("selection") != selection:
            continue
        steps = manifest.metrics.get("steps")
        own = _panels(noun.read_json("history.json") or [])
        if own and steps and steps > 1:
            found.append((noun, own))
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
    return [Figure("losses", text, panels=panels)]
