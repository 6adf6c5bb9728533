"""Which tasks tell methods apart at all: those on which the reference is above chance.

Chance of a task is what one and the same answer to all its questions scores under the task's own metric, the best of
its most frequent references: a yes/no question is right half of the time for whoever says "yes". A task counts in
Rel.% where the reference's mean score over its seeds is above that by more than `ERRORS` standard errors; this is asked
before any method is looked at:

    M_full - M_constant > 2 sqrt(V)        V: cluster-robust variance of the mean, `paired.py`

Elsewhere a method's share of the reference's score is a share of noise. Such a task is shown beside the figure, with
why. A task whose metric cannot score a constant answer, or has no number per row, is taken as it is.

Cost: the metric once for each of `CANDIDATES` answers per task.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from raycurate.errors import UserError
from raycurate.evaluation.metrics import get_metric
from raycurate.evaluation.paired import Item, Items, clustered_mean, image_clusters

ERRORS = 2.0
CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Chance:
    """How the reference stands to a constant answer in one task.

    Attributes:
        constant: the score of the best constant answer.
        answer: that answer.
        score: the reference's mean over its seeds.
        margin: how far above `constant` it has to be.
        above: whether it is.
    """

    constant: float
    answer: str
    score: float
    margin: float
    above: bool

    def __str__(self) -> str:
        always = f"{self.constant:.3g} for always {self.answer[:40]!r}"
        return f"{self.score:.3g} against {always} (margin {self.margin:.3g})"


def constant_score(
    metric: str, references: Sequence[tuple[str, ...]], images: Sequence[str | None]
) -> tuple[float, str] | None:
    """The best score of one answer given to all questions, and that answer; None where the metric cannot tell.

    Args:
        metric: a name of `METRICS`, or ``module:object``.
        references: right answers of each question of one task.
        images: its image.
    """
    counts = Counter(answers[0] for answers in references)
    candidates = sorted(counts, key=lambda answer: (-counts[answer], answer))[:CANDIDATES]
    metas = [{"image": image} for image in images]
    try:
        chosen = get_metric(metric)
        sign = 1.0 if chosen.higher_is_better else -1.0
        found = [(chosen.compute([answer] * len(metas), references, metas).value, answer) for answer in candidates]
    except UserError:  # such as MME's pairs, which need what only annotations have
        return None
    return max(found, key=lambda pair: (sign * pair[0], pair[1]))


def chance_of(
    metric: str,
    runs: Sequence[Items],
    references: Mapping[Item, tuple[str, ...]],
    images: Mapping[Item, str],
    *,
    higher_is_better: bool,
) -> Chance | None:
    """How the runs of the reference, one for each seed, stand to chance in one task; None where nobody can tell.

    Args:
        metric: the headline metric.
        runs: a score per question, for each seed.
        references: right answers of the questions.
        images: their images.
        higher_is_better: of the metric.
    """
    items = sorted(set.union(*map(set, runs))) if runs else []
    if not items:
        return None
    value_N = np.array([fmean(run[item] for run in runs if item in run) for item in items])
    mean, variance = clustered_mean(value_N, image_clusters(items, images))
    constant = constant_score(metric, [references[item] for item in items], [images.get(item) for item in items])
    if variance is None or constant is None:
        return None
    margin, sign = ERRORS * math.sqrt(variance), 1.0 if higher_is_better else -1.0
    return Chance(constant[0], constant[1], mean, margin, sign * (mean - constant[0]) > margin)
