"""What experiments about tasks share: how many rows each task has, a training on some of each, one score per task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raycurate.errors import UserError, unknown_name
from raycurate.evaluation.tasks import metrics_for_tasks
from raycurate.experiments.engine.subsets import trainable_rows
from raycurate.experiments.engine.weights_config import ProbeSettings
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import required
from raycurate.training.config import FinetuneConfig


def task_sizes(run: Run, config: ProbeSettings) -> dict[str, int]:
    """The rows of each task that can be trained on, `rows_per_task` at most; tokenises if that is not done yet.

    Raises:
        UserError: no such samples, or a wrong setting of the training.
    """
    sizes = trainable_rows(run, config.finetune, config.samples)
    return {task: min(count, config.rows_per_task or count) for task, count in sorted(sizes.items())}


def part_of(sizes: Mapping[str, int], part: float) -> dict[str, int]:
    """A part of each task, rounded, at least one row."""
    return {task: max(1, round(part * count)) for task, count in sizes.items()}


def mixture_config(
    config: ProbeSettings, rows: Mapping[str, int], *, seed: int, rows_seed: int, **weighting: Any
) -> FinetuneConfig:
    """The settings of a training on so many rows of each task.

    Raises:
        UserError: a wrong setting.
    """
    own = {"mixture": [{"samples": config.samples, "rows": rows}], "mixture_seed": rows_seed, "seed": seed, **weighting}
    return make_config(FinetuneConfig, {**config.finetune, **own}, "finetune")


def metric_of(task: str, headlines: Mapping[str, Mapping[str, bool]], chosen: Mapping[str, str]) -> str | None:
    """The metric that is the score of a task, None for a task without any.

    Raises:
        UserError: several metrics and none chosen, an unknown one, or one where lower is better.
    """
    own = headlines.get(task)
    if not own:
        return None
    name = chosen.get(task, next(iter(own)))
    if name not in own:
        raise unknown_name(f"metric of task '{task}' in scores", name, own)
    if len(own) > 1 and task not in chosen:
        raise UserError(
            f"task '{task}' has the metrics {', '.join(own)}; balancing needs one score per task: name it, "
            f"for example --set scores.{task}={name}"
        )
    if not own[name]:
        raise UserError(
            f"metric '{name}' of task '{task}' is lower where the model is better; balancing divides scores that are "
            f"higher where it is better, with a true zero. Give the task such a metric (--set evaluate.metrics.{task}="
            "METRIC), or leave it out (--fixed)"
        )
    return name


def scores_of(
    scores: Mapping[str, Mapping[str, float]],
    headlines: Mapping[str, Mapping[str, bool]],
    chosen: Mapping[str, str],
) -> dict[str, float]:
    """One score per task; a task without rows in the test set, or whose score is no number, is left out.

    Args:
        scores: task -> name -> number, of a probe.
        headlines: task -> metric -> whether higher is better, of the same probe.
        chosen: task -> the metric to take, where it has several.
    """
    metrics = {task: metric_of(task, headlines, chosen) for task in scores}
    found = {task: float(scores[task][metric]) for task, metric in metrics.items() if metric is not None}
    return {task: score for task, score in found.items() if math.isfinite(score)}


def check_metrics(run: Run, config: ProbeSettings, label: str) -> None:
    """Find a task whose metrics make no single score before anything is trained.

    Raises:
        UserError: as `metric_of`.
    """
    samples = required(run.noun("samples", label))
    if "command" in config.evaluate:  # what it gives is known when it has run
        return
    for task, metrics in metrics_for_tasks(samples.metrics["tasks"], config.evaluate.get("metrics")).items():
        metric_of(task, {task: {metric.name: metric.higher_is_better for metric in metrics}}, config.scores)
