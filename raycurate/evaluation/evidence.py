"""What a scoreboard can tell and what not: beside its scores, how sure each of them is.

- Row by row against a yardstick (a stratified draw of the same budget): the difference with its interval, and the
  smallest difference that these test rows and seeds can resolve (`paired.py`), in percent of the reference's scores.
- Rel.% without each task in turn: a ranking that one task makes is not one.
- Tasks on which the reference itself is not above chance are kept out of Rel.% (`chance.py`), and shown with why.

All methods of a board answer the same questions; a question's image and right answers are those of the first run that
has it. A task with several metrics counts once for each. Cost: linear in runs x questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raycurate.evaluation.chance import Chance, chance_of
from raycurate.evaluation.formats import markdown_table
from raycurate.evaluation.paired import (
    LEAST_CLUSTERS,
    Difference,
    Item,
    Items,
    difference,
    image_clusters,
    task_difference,
)
from raycurate.evaluation.relative import Column, Key, relative_percent, task_improvements
from raycurate.evaluation.scoreboard import Scoreboard, label, summarize

YARDSTICKS = ("stratified", "random")
"""What methods are compared with, the first that is there."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of all runs of a board, by (method, seed) and column.

    Attributes:
        runs: (method, seed) -> (task, metric) -> score per question.
        images: the image of each question, where it has one.
        references: its right answers.
    """

    runs: dict[tuple[str, int], dict[Key, dict[Item, float]]] = field(default_factory=dict)
    images: dict[Item, str] = field(default_factory=dict)
    references: dict[Item, tuple[str, ...]] = field(default_factory=dict)

    def add(self, method: str, seed: int, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> None:
        """Take in one run.

        Args:
            method: of the run.
            seed: likewise.
            rows: with `key`, `turn`, `task`, `image`, `references` and `scores` by metric.
            columns: of the board; a row counts in those of its task that it has a score of.
        """
        by_task: dict[str, list[Column]] = {}
        for column in columns:
            by_task.setdefault(column.task, []).append(column)
        found = self.runs.setdefault((method, seed), {})
        for row in rows:
            item = (row["key"], row["turn"])
            for column in by_task.get(row["task"], ()):
                if column.metric in row["scores"]:
                    found.setdefault(column.key, {})[item] = row["scores"][column.metric]
            if item not in self.references:
                self.references[item] = tuple(row["references"])
                if row["image"]:
                    self.images[item] = row["image"]

    def of(self, method: str, column: Column) -> dict[int, Items]:
        """A method's scores in a column by seed; only seeds that have some."""
        found = {seed: run.get(column.key) for (name, seed), run in self.runs.items() if name == method}
        return {seed: items for seed, items in sorted(found.items()) if items}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What `weigh` found.

    Attributes:
        yardsticks: method -> what it is compared with.
        reference: whose scores the differences are percent of; None: each yardstick's own.
        differences: method -> its difference.
        rel_without: method -> task -> Rel.% without that task; empty without a reference.
    """

    yardsticks: Mapping[str, str]
    reference: str | None
    differences: Mapping[str, Difference]
    rel_without: Mapping[str, Mapping[str, float]]


def tasks_at_chance(answers: Answers, columns: Sequence[Column], reference: str) -> dict[str, Chance]:
    """The tasks on which the reference is not above chance in any of its metrics, with the first one's figures."""
    found: dict[str, list[Chance | None]] = {}
    for column in columns:
        runs = list(answers.of(reference, column).values())
        chance = chance_of(
            column.metric, runs, answers.references, answers.images, higher_is_better=column.higher_is_better
        )
        found.setdefault(column.task, []).append(chance)
    at_chance = {task: own for task, own in found.items() if all(each is not None and not each.above for each in own)}
    return {task: own[0] for task, own in at_chance.items() if own[0] is not None}


def tasks_of_few_images(answers: Answers, columns: Sequence[Column], method: str) -> dict[str, str]:
    """The tasks whose questions are about too few images for an error, with how few; as one method answered them."""
    found = {}
    for column in columns:
        items = {item for run in answers.of(method, column).values() for item in run}
        images = len(set(image_clusters(sorted(items), answers.images).tolist()))
        if 0 < images < LEAST_CLUSTERS:
            found[column.task] = f"{images} images are fewer than {LEAST_CLUSTERS}, which an error needs"
    return found


def reasons_of(at_chance: Mapping[str, Chance], reference: str) -> dict[str, str]:
    """Why these tasks do not count, for the notes of a scoreboard."""
    return {task: f"'{reference}' is not above chance: {chance}" for task, chance in at_chance.items()}


def weigh(answers: Answers, board: Scoreboard, yardsticks: Mapping[str, str], left_out: Iterable[str] = ()) -> Evidence:
    """Compare every method with its yardstick, and look at Rel.% without each task.

    Args:
        answers: of all runs.
        board: their scoreboard.
        yardsticks: method -> the method that it is compared with; others are compared with nothing.
        left_out: tasks that do not count.
    """
    columns = [column for column in board.columns if column.task not in set(left_out)]
    full = _reference_scores(board)
    differences = {method: _difference(answers, columns, method, other, full) for method, other in yardsticks.items()}
    return Evidence(
        dict(yardsticks), board.reference if full else None, differences, _rel_without(board, columns, full)
    )


def yardstick_of(methods: Sequence[str]) -> str | None:
    """What the others are compared with: a stratified draw, else a random one, else nothing."""
    return next((name for name in YARDSTICKS if name in methods), None)


def _reference_scores(board: Scoreboard) -> dict[Key, float]:
    """What the reference scores, mean over its seeds; empty without one."""
    found = next((each for each in board.methods if each.method == board.reference), None)
    if found is None:
        return {}
    return {c.key: s.mean for c, s in zip(board.columns, found.scores, strict=True) if s.mean is not None}


def _difference(
    answers: Answers, columns: Sequence[Column], method: str, other: str, full: Mapping[Key, float]
) -> Difference:
    found = {}
    for column in columns:
        first, second = answers.of(method, column), answers.of(other, column)
        seeds = sorted(first.keys() & second.keys())
        if seeds:
            sides = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
            found[label(column)] = task_difference(
                *sides, answers.images, higher_is_better=column.higher_is_better, base=full.get(column.key)
            )
    return difference(found)


def _rel_without(
    board: Scoreboard, columns: Sequence[Column], full: Mapping[Key, float]
) -> dict[str, dict[str, float]]:
    """Mean over the seeds of Rel.% without each task, for methods that have all scores."""
    usable = [column for column in columns if full.get(column.key, 0.0) > 0]
    found: dict[str, dict[str, float]] = {}
    for method in board.methods:
        lines = [
            dict(zip(board.columns, line.scores, strict=True)) for line in board.lines if line.method == method.method
        ]
        for task in dict.fromkeys(column.task for column in usable):
            left = [column for column in usable if column.task != task]
            rel = summarize(_rel(line, full, left) for line in lines).mean
            if rel is not None:
                found.setdefault(method.method, {})[task] = rel
    return found


def _rel(line: Mapping[Column, float | None], full: Mapping[Key, float], columns: Sequence[Column]) -> float | None:
    scores = {column.key: value for column in columns if (value := line[column]) is not None}
    if not columns or len(scores) < len(columns):
        return None
    return relative_percent(task_improvements(scores, full, columns))


def evidence_markdown(evidence: Evidence) -> str:
    """The table to read; '' where there is nothing to compare."""
    rows = []
    for method, found in evidence.differences.items():
        items = sum(found.by_task[name].items for name in found.tasks)
        images = sum(found.by_task[name].clusters for name in found.tasks)
        interval = found.interval
        shown = f"{interval[0]:+.1f} to {interval[1]:+.1f}" if interval else f"none: {found.why_no_error}"
        resolves = "-" if found.resolves is None else f"{found.resolves:.1f}"
        cells = [
            "-" if found.percent is None else f"{found.percent:+.1f}",
            shown,
            resolves,
            f"{items:,}",
            f"{images:,}",
            str(found.seeds),
        ]
        rows.append([method, evidence.yardsticks[method], *cells, _range(evidence.rel_without.get(method, {}))])
    if not rows:
        return ""
    headings = ["method", "against", "difference %", "95 % interval", "resolves %", "questions", "images", "seeds"]
    whose = "the other's" if evidence.reference is None else f"{evidence.reference}'s"
    note = f"Differences are row by row, in percent of {whose} scores, all tasks alike; images shared by questions "
    note += "and the seeds are in the intervals. What lies below the resolved difference cannot be told from nothing."
    return f"{markdown_table([*headings, 'Rel.% without one task'], rows)}\n\n{note}\n"


def _range(without: Mapping[str, float]) -> str:
    if not without:
        return "-"
    low, high = min(without, key=lambda task: without[task]), max(without, key=lambda task: without[task])
    return f"{without[low]:.1f} ({low}) to {without[high]:.1f} ({high})"


def evidence_record(evidence: Evidence, chance: Mapping[str, Chance]) -> dict[str, Any]:
    """Plain values for JSON."""
    differences = {}
    for method, found in evidence.differences.items():
        own = {"against": evidence.yardsticks[method], "interval": found.interval, "resolves": found.resolves}
        differences[method] = {**asdict(found), **own, "p_better": found.p_better}
    rel = {method: dict(values) for method, values in evidence.rel_without.items()}
    return {"differences": differences, "rel_without": rel, "at_chance": {t: asdict(c) for t, c in chance.items()}}
