"""Scores relative to a reference model: CoTBal's Delta% and E% (arXiv 2403.04343, Eqs. 12-14), COINCIDE's Rel.%.

For task i with K_i metrics, model e and reference b (delta = 0 where higher is better, 1 where lower is):

    I_i     = (1 / K_i) sum_j (-1)^delta_ij (M_e,ij - M_b,ij) / M_b,ij      (14)
    Delta%  = (100 / N) sum_i I_i                                           (12)
    E%      = (100 / N) sum_i max(0, -I_i)                                  (13)
    Rel.%   = (100 / N) sum_i (1 + I_i) = 100 + Delta%

E% is clipped per task, after the metrics of the task are averaged; tasks weigh the same however many metrics they
have. Where higher is better and a task has one metric, Rel.% is COINCIDE's unweighted mean of model / full. Where
lower is better the ratio is 2 - M_e / M_b, which stays finite as M_e goes to 0.

A ratio needs a reference above zero, on a scale with a true zero: anything else is an error that names the metric.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raycurate.errors import UserError

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one task: a column of a scoreboard."""

    task: str
    metric: str
    higher_is_better: bool = True

    @property
    def key(self) -> Key:
        """Return (task, metric)."""
        return self.task, self.metric


def improvement(score: float, reference: float, *, higher_is_better: bool = True) -> float:
    """Return the relative improvement of one metric over the reference, positive where the model is better.

    Raises:
        UserError: the reference is not above zero.
    """
    if not reference > 0:
        raise UserError(f"a relative score needs a reference above zero, got {reference}")
    change = (score - reference) / reference
    return change if higher_is_better else -change


def task_improvements(
    scores: Mapping[Key, float], reference: Mapping[Key, float], columns: Iterable[Column]
) -> dict[str, float]:
    """Return I_i of Eq. 14 by task; both mappings must have every column.

    Raises:
        UserError: a score is missing, or a reference is not above zero; the message names task and metric.
    """
    parts: dict[str, list[float]] = defaultdict(list)
    for column in columns:
        for kind, table in (("score", scores), ("reference score", reference)):
            if column.key not in table:
                raise UserError(f"no {kind} for metric '{column.metric}' of task '{column.task}'")
        try:
            change = improvement(scores[column.key], reference[column.key], higher_is_better=column.higher_is_better)
        except UserError as error:
            raise UserError(f"metric '{column.metric}' of task '{column.task}': {error}") from error
        parts[column.task].append(change)
    return {task: math.fsum(changes) / len(changes) for task, changes in parts.items()}


def delta_percent(improvements: Mapping[str, float]) -> float:
    """Return Delta% of Eq. 12 over at least one task."""
    return 100 * math.fsum(improvements.values()) / len(improvements)


def error_percent(improvements: Mapping[str, float]) -> float:
    """Return E% of Eq. 13 over at least one task: the mean loss, gains counting as none."""
    return 100 * math.fsum(max(0.0, -change) for change in improvements.values()) / len(improvements)


def relative_percent(improvements: Mapping[str, float]) -> float:
    """Return Rel.% over at least one task; 100 is the reference itself."""
    return 100 + delta_percent(improvements)
