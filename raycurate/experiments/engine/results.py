"""The tables of a finished sweep. Pure arithmetic on the trials' results; nothing in them but `timings.csv` is a time.

results.csv   one line per trial: selection statistics, with `finetune` also rows, scores and Rel.%
results.json  the same with the settings and the rows of every task
tasks.csv     one line per trial and task: rows, kept, share before and after
overlap.csv   Jaccard overlap of each pair of selections
timings.csv   seconds of each trial by part, and its cost
scoreboard.md, evidence.json   with `finetune`: the scores, and how sure they are (`evaluation/evidence.py`)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from raycurate.evaluation import Column, Result, Scoreboard, build_scoreboard, to_markdown
from raycurate.evaluation.config import FULL
from raycurate.evaluation.evidence import (
    Answers,
    evidence_markdown,
    evidence_record,
    reasons_of,
    tasks_at_chance,
    weigh,
    yardstick_of,
)
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.figures import write_figures
from raycurate.experiments.engine.grid import Trial
from raycurate.experiments.engine.lines import columns_of, scores_on
from raycurate.experiments.engine.probes import ProbeResult
from raycurate.run.store import Noun
from raycurate.selection.diversity import task_diversity

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial.

    Attributes:
        trial: the point of the grid.
        measured: what its selection is like; None for 'full'.
        trained: its training and scores; None in a sweep that selects only.
        shared_seconds: by noun, what the selection needs beforehand; charged to every trial whole.
    """

    trial: Trial
    measured: Mapping[str, Any] | None
    trained: ProbeResult | None
    shared_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All outcomes, the overlap of the selections in their order, and the rows of every task before selection."""

    config: SweepConfig
    outcomes: Sequence[Outcome]
    overlap: Sequence[Sequence[float]]
    tasks: Mapping[str, int]

    @property
    def columns(self) -> list[Column]:
        """The headline metrics of all tasks that were scored."""
        return columns_of(each.trained.headlines for each in self.outcomes if each.trained is not None)


def write_results(noun: Noun, sweep: Sweep, answers: Answers) -> None:
    """Write all tables and figures into the sweep's folder.

    Args:
        noun: begun.
        sweep: its outcomes.
        answers: of the trials that were trained, by group and seed.
    """
    at_chance = tasks_at_chance(answers, sweep.columns, FULL)
    board = scoreboard(sweep, reasons_of(at_chance, FULL))
    rows, times, tasks = result_rows(sweep, board), timing_rows(sweep), task_rows(sweep)
    labels = [outcome.trial.label for outcome in sweep.outcomes if outcome.measured is not None]
    overlap = [
        {"label": a, **dict(zip(labels, line, strict=True))} for a, line in zip(labels, sweep.overlap, strict=True)
    ]
    value = {"config": sweep.config.determining(), "rows": sum(sweep.tasks.values()), "trials": rows, "tasks": tasks}
    noun.write_json("results.json", value, sort_keys=False)
    for name, table in (("results", rows), ("tasks", tasks), ("overlap", overlap), ("timings", times)):
        noun.write_bytes(f"{name}.csv", to_csv(table).encode())
    if board is not None:
        found = weigh(answers, board, _yardsticks(sweep), at_chance)
        noun.write_bytes("scoreboard.md", f"{to_markdown(board)}\n{evidence_markdown(found)}".encode())
        noun.write_json("evidence.json", evidence_record(found, at_chance))
    costs = [{**row, "cost_seconds": time.get("cost_seconds")} for row, time in zip(rows, times, strict=True)]
    write_figures(noun, {**value, "trials": costs})


def to_csv(rows: Sequence[Row]) -> str:
    """A table of rows with the same columns; a missing value is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def result_rows(sweep: Sweep, board: Scoreboard | None) -> list[Row]:
    """One row per trial, in the order of the grid, with its line of the scoreboard where there is one."""
    rows, place = [], 0
    for number, outcome in enumerate(sweep.outcomes):
        trial = outcome.trial
        row: Row = {
            "label": trial.label,
            "method": trial.method,
            "temperature": trial.temperature,
            "ratio": trial.ratio,
            "seed": trial.seed,
        }
        overlaps = None
        if outcome.measured is not None:
            overlaps = [value for other, value in enumerate(sweep.overlap[place]) if other != place]
            place += 1
        row |= _statistics(outcome, sweep.tasks) | {"mean_jaccard": fmean(overlaps) if overlaps else None}
        if board is not None and outcome.trained is not None:
            line = board.lines[number]
            names = [f"{column.task}/{column.metric}" for column in board.columns]
            row |= {"trained_rows": outcome.trained.rows, "steps": outcome.trained.steps}
            row |= dict(zip(names, line.scores, strict=True)) | {"rel_percent": line.figures["rel_percent"]}
        rows.append(row)
    return rows


def _statistics(outcome: Outcome, tasks: Mapping[str, int]) -> Row:
    """Balance of the tasks, coverage of the clusters, distance to all rows."""
    found: Mapping[str, Any] = outcome.measured or {"target": sum(tasks.values()), "tasks": tasks}
    diversity = task_diversity(found["tasks"])
    clusters, covered = found.get("clusters"), found.get("clusters_covered")
    return {
        "target": found["target"],
        "kept": diversity.rows,
        "tasks": diversity.tasks,
        "all_tasks": len(tasks),
        "task_entropy": diversity.entropy,
        "effective_tasks": diversity.effective_tasks,
        "largest_task_share": diversity.largest_share,
        "clusters_covered": covered,
        "clusters": clusters,
        "cluster_share": covered / clusters if clusters else None,
        "mmd2": found.get("mmd2"),
        "mmd2_error": found.get("mmd2_error"),
    }


def task_rows(sweep: Sweep) -> list[Row]:
    """One row per trial and task, the largest tasks first: the histogram of every selection."""
    names = sorted(sweep.tasks, key=lambda name: (-sweep.tasks[name], name))
    total = sum(sweep.tasks.values())
    rows = []
    for outcome in sweep.outcomes:
        if outcome.measured is None:
            continue
        kept, trial = outcome.measured["tasks"], outcome.trial
        sum_kept = max(sum(kept.values()), 1)
        for name in names:
            row: Row = {
                "label": trial.label,
                "method": trial.method,
                "temperature": trial.temperature,
                "ratio": trial.ratio,
                "seed": trial.seed,
                "task": name,
                "rows": sweep.tasks[name],
                "kept": kept.get(name, 0),
                "share_before": sweep.tasks[name] / total,
                "share_after": kept.get(name, 0) / sum_kept,
            }
            rows.append(row)
    return rows


def timing_rows(sweep: Sweep) -> list[Row]:
    """Seconds of each trial; its cost is selection, what that needs beforehand, and training."""
    price = sweep.config.price_per_hour
    rows = []
    for outcome in sweep.outcomes:
        own = outcome.measured["seconds"] if outcome.measured is not None else {}
        row: Row = {
            "label": outcome.trial.label,
            "selection_seconds": round(own.get("selection", 0.0), 3),
            "statistics_seconds": round(own.get("statistics", 0.0), 3),
        }
        if outcome.trained is not None:
            seconds = _cost_seconds(outcome)
            row["shared_seconds"] = round(sum(outcome.shared_seconds.values()), 3)
            row["training_seconds"] = round(outcome.trained.training_seconds, 3)
            row["evaluation_seconds"] = round(outcome.trained.evaluation_seconds, 3)
            row["cost_seconds"] = round(seconds, 3)
            if price is not None:
                row["cost"] = round(seconds / 3600 * price, 6)
        rows.append(row)
    return rows


def _cost_seconds(outcome: Outcome) -> float:
    assert outcome.trained is not None, "a trial that was not trained has no cost"
    selection = outcome.measured["seconds"]["selection"] if outcome.measured is not None else 0.0
    return float(selection + sum(outcome.shared_seconds.values()) + outcome.trained.training_seconds)


def scoreboard(sweep: Sweep, left_out: Mapping[str, str]) -> Scoreboard | None:
    """The scores of all trials with Rel.% against the trials of 'full', if there are any; None without training.

    Args:
        sweep: its outcomes.
        left_out: tasks that do not count in Rel.%, with why.
    """
    trained = [(outcome.trial, outcome.trained) for outcome in sweep.outcomes if outcome.trained is not None]
    if not trained:
        return None
    columns = sweep.columns
    results = [
        Result(method=trial.group, seed=trial.seed, scores=scores_on(columns, result.scores))
        for trial, result in trained
    ]
    reference = FULL if FULL in sweep.config.methods else None
    return build_scoreboard(columns, results, reference=reference, left_out=left_out)


def _yardsticks(sweep: Sweep) -> dict[str, str]:
    """Every group of trials -> the draw of its own ratio that it is compared with."""
    yardstick = yardstick_of(sweep.config.methods)
    trials = [outcome.trial for outcome in sweep.outcomes if not outcome.trial.is_full]
    by_ratio = {trial.ratio: trial.group for trial in trials if trial.method == yardstick}
    return {trial.group: by_ratio[trial.ratio] for trial in trials if by_ratio and trial.method != yardstick}
