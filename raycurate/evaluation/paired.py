"""The difference of two methods on the same test rows, with an error that knows of shared images and of seeds.

For the questions i of task t, S seeds of both methods, and clusters c of questions that share an image:

    d_i = mean_s a_is - mean_s b_is            (times -1 where lower is better)
    D_t = mean_i d_i
    V_t = C/(C-1) 1/n^2 sum_c (sum_{i in c} (d_i - D_t))^2

    D   = 100/T sum_t D_t / b_t                b_t > 0: what a reference scores, else b itself; tasks weigh the same
    V   = (100/T)^2 sum_t V_t / b_t^2 + s^2/S  s: standard deviation of D over the seeds
    interval: D +- t_{.975}(f) sqrt(V)         f: Satterthwaite's degrees of freedom of the two parts of V

With a reference D is in points of Rel.%. Without one, a task that b hardly learned counts by a ratio of two small
numbers.

The rows' part has sum_t (C_t - 1) degrees of freedom, the seeds' part S - 1, so few seeds count for as little as they
are; with one seed nothing is known of training noise, and the interval is of the rows alone. What chance does to single
answers in training is in both parts: the interval is rather too wide than too narrow.

V_t is the cluster-robust variance of a mean (with clusters of one question it is the usual s^2/n). It collapses with
few clusters, so a task of fewer than `LEAST_CLUSTERS` has none, and no interval is given to a set of tasks that has
such a one. The smallest difference that the rows can resolve, two-sided at 5 % with a power of 80 %, is (z_.975 + z_.8)
sqrt(V).

Holm's step-down keeps the chance of any false claim among several at the level of one.

Cost: linear in rows x seeds. Limits: metrics with a number per row only; the others' tasks are left out and named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEAST_CLUSTERS = 10
CONFIDENCE = 0.95
POWER = 0.8

Item = tuple[str, int]
"""A question: row key and turn."""
Items = Mapping[Item, float]
"""A score per question of one task."""


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """What one task says.

    Attributes:
        mean: D_t, in the metric's unit, above zero where the first method is better.
        variance: V_t; None below `LEAST_CLUSTERS` clusters.
        base: b_t, the mean score that the difference is a part of.
        by_seed: D_t of each seed.
        items: questions that both answered in every seed.
        clusters: images that these are about.
    """

    mean: float
    variance: float | None
    base: float
    by_seed: tuple[float, ...]
    items: int
    clusters: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Two methods over all their common tasks, in percent of the tasks' bases.

    Attributes:
        percent: D; None where no task can be compared.
        error: sqrt(V); None where a task has too few clusters.
        degrees: of freedom of the error.
        seeds: S.
        tasks: those that count.
        left_out: task -> why it does not.
        by_task: what each task says.
    """

    percent: float | None
    error: float | None
    degrees: float
    seeds: int
    tasks: tuple[str, ...]
    left_out: Mapping[str, str]
    by_task: Mapping[str, TaskDifference]

    @property
    def why_no_error(self) -> str:
        """Why there is no error, in words; '' where there is one."""
        if self.percent is None:
            why = "; ".join(f"{task}: {reason}" for task, reason in self.left_out.items())
            return why or "no task is left"
        few = [task for task in self.tasks if self.by_task[task].variance is None]
        return f"fewer than {LEAST_CLUSTERS} images in {', '.join(few)}" if few else ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `percent`; None without an error."""
        if self.error is None or self.percent is None:
            return None
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, self.degrees)) * self.error
        return self.percent - half, self.percent + half

    @property
    def resolves(self) -> float | None:
        """The smallest difference in percent that these rows and seeds can tell from none."""
        if self.error is None:
            return None
        normal = NormalDist()
        return (normal.inv_cdf(0.5 + CONFIDENCE / 2) + normal.inv_cdf(POWER)) * self.error

    @property
    def p_better(self) -> float | None:
        """One-sided p of "the first method is no better"; None without an error."""
        if self.error is None or self.percent is None:
            return None
        if self.error == 0:
            return 0.0 if self.percent > 0 else 1.0
        return float(stats.t.sf(self.percent / self.error, self.degrees))


def task_difference(
    first: Sequence[Items],
    second: Sequence[Items],
    images: Mapping[Item, str],
    *,
    higher_is_better: bool,
    base: float | None = None,
) -> TaskDifference | None:
    """Compare one task, or None where no question was answered by both in every seed.

    Args:
        first: a score per question, for each seed.
        second: likewise, of the other method, for the same seeds.
        images: what question is about which image; one without an image is a cluster by itself.
        higher_is_better: of the metric.
        base: the reference's mean score; None: the second method's.
    """
    assert len(first) == len(second) >= 1, "as many seeds of both"
    keys = sorted(set.intersection(*(set(items) for items in (*first, *second))))
    if not keys:
        return None
    sign = 1.0 if higher_is_better else -1.0
    first_SN, second_SN = (np.array([[items[key] for key in keys] for items in side]) for side in (first, second))
    difference_SN = sign * (first_SN - second_SN)
    cluster_N = image_clusters(keys, images)
    mean, variance = clustered_mean(difference_SN.mean(axis=0), cluster_N)
    return TaskDifference(
        mean=mean,
        variance=variance,
        base=float(second_SN.mean()) if base is None else base,
        by_seed=tuple(difference_SN.mean(axis=1).tolist()),
        items=len(keys),
        clusters=int(cluster_N.max()) + 1,
    )


def image_clusters(items: Sequence[Item], images: Mapping[Item, str]) -> NDArray[np.int64]:
    """The cluster of each question: those on one image share one, a question without an image is one by itself."""
    names = [images.get(item) or f"{item[0]} {item[1]}" for item in items]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def clustered_mean(value_N: NDArray[np.float64], cluster_N: NDArray[np.int64]) -> tuple[float, float | None]:
    """The mean of values, and its cluster-robust variance; None below `LEAST_CLUSTERS` clusters.

    Args:
        value_N: at least one.
        cluster_N: the cluster of each, 0 .. C-1.
    """
    mean = float(value_N.mean())
    clusters = int(cluster_N.max()) + 1
    if clusters < LEAST_CLUSTERS:
        return mean, None
    sums_C = np.bincount(cluster_N, weights=value_N - mean, minlength=clusters)
    return mean, float((sums_C**2).sum()) * clusters / (clusters - 1) / len(value_N) ** 2


def difference(found: Mapping[str, TaskDifference | None]) -> Difference:
    """Put the tasks together; those that cannot be compared are named."""
    left_out = {task: "no question was answered by both in every seed" for task, each in found.items() if each is None}
    known = {task: each for task, each in found.items() if each is not None}
    left_out |= {task: "its base scores nothing, so there is no ratio" for task, e in known.items() if e.base <= 0}
    used = {task: each for task, each in known.items() if each.base > 0}
    if not used:
        return Difference(None, None, 0.0, 0, (), left_out, known)
    seeds = min(len(each.by_seed) for each in used.values())
    by_seed = [100 * math.fsum(e.by_seed[s] / e.base for e in used.values()) / len(used) for s in range(seeds)]
    error, degrees = _error(list(used.values()), by_seed)
    return Difference(
        percent=100 * math.fsum(each.mean / each.base for each in used.values()) / len(used),
        error=error,
        degrees=degrees,
        seeds=seeds,
        tasks=tuple(used),
        left_out=left_out,
        by_task=known,
    )


def _error(tasks: Sequence[TaskDifference], by_seed: Sequence[float]) -> tuple[float | None, float]:
    """sqrt(V) and its degrees of freedom; no error where a task has none."""
    of_rows = float(sum(task.clusters - 1 for task in tasks))
    if any(task.variance is None for task in tasks):
        return None, of_rows
    rows = math.fsum((task.variance or 0.0) / task.base**2 for task in tasks) * (100 / len(tasks)) ** 2
    if len(by_seed) == 1:
        return math.sqrt(rows), of_rows
    runs = float(np.var(by_seed, ddof=1)) / len(by_seed)
    total = rows + runs
    degrees = total**2 / (rows**2 / of_rows + runs**2 / (len(by_seed) - 1)) if total > 0 else of_rows
    return math.sqrt(total), degrees


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p values: those at or below a level are claims that hold together at that level."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted
