"""Which metric a task gets: a pattern of its name, unless the user says otherwise.

The first row of `DEFAULTS` whose pattern is found in the lower-cased name wins; a task that none fits gets exact
match. Captions come before boxes because RefCOCO has both. ChartQA gets its own relaxed accuracy; CoTBal's column
of that name is exact match, so give `{"ChartQA": "exact_match"}` to compare with it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raycurate.errors import UserError, unknown_name
from raycurate.evaluation.base import Meta, Metric
from raycurate.evaluation.metrics import get_metric

DEFAULTS: tuple[tuple[str, str], ...] = (
    (r"caption|ref[-_]?cap\b|nocaps|flickr30k|sharegpt4v|describ", "cider"),
    (r"bbox|\bbox(es)?\b|grounding|refcoco|\brec\b", "iou"),
    (r"\bpope\b", "pope"),
    (r"\bmme\b", "mme"),
    (r"chart_?qa", "relaxed_accuracy"),
    (r"ocr_?vqa|easy_?vqa", "exact_match"),
    (r"vqa_?v2|text_?vqa|vizwiz|ok_?vqa|st_?vqa", "vqa_accuracy"),
)
FALLBACK = "exact_match"


def default_metric(task: str) -> str:
    """Return the name of the metric that a task of this name gets."""
    # "-" and "_" separate words in task names, but "_" is a letter to \b.
    name = re.sub(r"[-_\s]+", "_", task.lower())
    words = name.replace("_", " ")
    return next(
        (metric for pattern, metric in DEFAULTS if re.search(pattern, name) or re.search(pattern, words)), FALLBACK
    )


def metrics_for_tasks(
    tasks: Iterable[str], overrides: Mapping[str, str | Iterable[str]] | None = None
) -> dict[str, tuple[Metric, ...]]:
    """Return the metrics of every task.

    Args:
        tasks: task names.
        overrides: task name or shell pattern (`ref*`) -> a metric or several. A task's own name goes before a
            pattern, and an earlier pattern before a later one.

    Raises:
        UserError: an unknown metric, or an override that fits no task.
    """
    names, given = list(tasks), dict(overrides or {})
    for pattern in given:
        if pattern not in names and not fnmatch.filter(names, pattern):
            raise unknown_name("task in the metric overrides", pattern, names)
    return {task: tuple(map(get_metric, _chosen(task, given))) for task in names}


@dataclass(slots=True)
class Fit:
    """Whether the metrics of one task can take its rows; `see` every row, then ask for the metrics.

    A metric that was guessed from the task's name and cannot take its rows gives way to exact match, and `note` says
    so; one that the user named is an error.
    """

    task: str
    metrics: tuple[Metric, ...]
    guessed: bool
    rows: int = 0
    misfits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def see(self, references: Sequence[str], meta: Meta) -> None:
        """Count one row."""
        self.rows += 1
        for metric in self.metrics:
            reason = metric.why_not(references, meta)
            if reason is not None:
                self.misfits[metric.name] = self.misfits.get(metric.name, 0) + 1
                self.reasons.setdefault(metric.name, reason)

    @property
    def note(self) -> str | None:
        """What does not fit, and what to do; None where all does."""
        if not self.misfits:
            return None
        name, count = next(iter(self.misfits.items()))
        told = f"task '{self.task}': metric '{name}' cannot take {count} of {self.rows} rows: {self.reasons[name]}"
        if self.guessed:
            return (
                f"{told}. It was guessed from the task's name: {FALLBACK} is taken instead; name another with "
                f"--metrics '{self.task}=METRIC'"
            )
        return f"{told}. Give the task another metric (--metrics '{self.task}=METRIC') or correct its answers"

    def fitting(self) -> tuple[Metric, ...]:
        """The metrics to score with. Raises `UserError` for one that the user named and that does not fit."""
        note = self.note
        if note is None:
            return self.metrics
        if not self.guessed:
            raise UserError(note)
        return (get_metric(FALLBACK),)


def fits_of(tasks: Iterable[str], overrides: Mapping[str, str | Iterable[str]] | None = None) -> dict[str, Fit]:
    """A `Fit` for every task, before its rows are seen; raises as `metrics_for_tasks`."""
    metrics = metrics_for_tasks(tasks, overrides)
    return {
        task: Fit(task=task, metrics=own, guessed=not _named_for(task, overrides or {}))
        for task, own in metrics.items()
    }


def _named_for(task: str, overrides: Mapping[str, str | Iterable[str]]) -> list[str]:
    """The overrides that fit a task, the first of which counts."""
    return [task] if task in overrides else [key for key in overrides if fnmatch.fnmatchcase(task, key)]


def _chosen(task: str, overrides: Mapping[str, str | Iterable[str]]) -> tuple[str, ...]:
    named = _named_for(task, overrides)
    if not named:
        return (default_metric(task),)
    chosen = overrides[named[0]]
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)
