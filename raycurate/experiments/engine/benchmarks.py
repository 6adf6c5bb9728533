"""A probe's scores as benchmarks from 0 to 100, higher is better: one per task and metric, and their plain mean.

benchmark = 100 * value / best value of its metric        (100 minus that, where lower is better)
"""

from __future__ import annotations

from collections.abc import Mapping

from raycurate.errors import UserError
from raycurate.experiments.engine.probes import ProbeResult

BEST_VALUES: Mapping[str, float] = {
    "exact_match": 1.0,
    "choice": 1.0,
    "vqa_accuracy": 1.0,
    "relaxed_accuracy": 1.0,
    "cider": 10.0,
    "gleu": 1.0,
    "iou": 1.0,
    "pope": 1.0,
    "mme": 2000.0,
}


def benchmarks_of(result: ProbeResult, best_values: Mapping[str, float]) -> dict[str, float]:
    """The benchmarks by name: the task's, or `task/metric` where a task has several metrics.

    Args:
        result: of a probe with an evaluation.
        best_values: metric -> its best value, beside and before `BEST_VALUES`.

    Raises:
        UserError: a metric whose best value is not known, or a score beyond it.
    """
    known = {**BEST_VALUES, **best_values}
    found: dict[str, float] = {}
    for task, metrics in result.headlines.items():
        for metric, higher in metrics.items():
            if metric not in known:
                raise UserError(f"the best value of metric '{metric}' is not known: --set best_values.{metric}=100")
            share = 100 * result.scores[task][metric] / known[metric]
            if not 0 <= share <= 100:
                value = result.scores[task][metric]
                raise UserError(
                    f"'{metric}' of '{task}' is {value:g}, which is not within 0 and its best value "
                    f"{known[metric]:g}: --set best_values.{metric}=..."
                )
            found[task if len(metrics) == 1 else f"{task}/{metric}"] = share if higher else 100 - share
    return found
