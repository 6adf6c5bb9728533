"""How many rows each cluster gives: softmax budget, caps and redistribution (COINCIDE, arXiv 2406.10995).

    P_i = exp(S_i / (tau D_i)) / sum_j exp(S_j / (tau D_j)),   n_i = P_i N_core

Published allocation: visit clusters by descending P; each takes round_half_even(R p), p its weight
renormalised over the clusters not yet visited, capped by its size; R is what is left. What a full cluster
cannot take thus flows to clusters of lower P. As written that is O(K^2) exponentials. With scores z sorted
descending, p_i = 1 / T_i where T_i = sum_{j >= i} exp(z_j - z_i), and T_i = 1 + exp(z_{i+1} - z_i) T_{i+1}:
O(K log K), and no exponential can overflow or underflow into 0/0 for any temperature.

If the last clusters are full the published program gives fewer rows than asked. Here what is left is
allocated again, by the same rule, among the clusters that still have room, until nothing is left or every
cluster is full: the result is exactly the target whenever enough rows exist. Ties break by the lower cluster
id.

P does not depend on a cluster's size: a small cluster is often kept whole. `Guards` limits that, and is off
by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError

Weighting = Literal["both", "transferability", "density", "equal", "size"]

# One unit of the kernel's fixed point: a density below it cannot be told from zero.
SMALLEST_DENSITY = 2.0**-31


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """Bounds on what one cluster gives.

    Attributes:
        min_cluster_keep: rows that each cluster gives at least (all of a smaller cluster).
        max_keep_fraction: the largest part of a cluster that may be kept, in (0, 1]; rounded down.
    """

    min_cluster_keep: int = 0
    max_keep_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.min_cluster_keep < 0:
            raise UserError(f"min_cluster_keep is {self.min_cluster_keep}; it must be 0 or more")
        if not 0 < self.max_keep_fraction <= 1:
            raise UserError(f"max_keep_fraction is {self.max_keep_fraction}; it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Quotas of all clusters.

    Attributes:
        probability_K: P, float64 [K]; sums to 1 over clusters that hold rows.
        quota_K: rows to keep, int64 [K].
        redistributed: rows that the published single pass would not have allocated.
    """

    probability_K: NDArray[np.float64]
    quota_K: NDArray[np.int64]
    redistributed: int


def cluster_scores(
    transferability_K: NDArray[np.float64], density_K: NDArray[np.float64], weighting: Weighting = "both"
) -> NDArray[np.float64]:
    """Return the exponent's numerator z with P = softmax(z / tau), float64 [K].

    `both` is S / D; `transferability` is S; `density` is 1 / D; `equal` is 0 (the ablations of the paper's Table 3b).
    `size` has no such score: its P is the cluster's part of the rows (`size_scores`).

    Raises:
        UserError: S or D is not finite.
    """
    for name, values in (("transferability", transferability_K), ("density", density_K)):
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).argmax())
            raise UserError(f"{name} of cluster number {bad} is {values[bad]}; rank the clusters again")
    floor_K = np.maximum(density_K, SMALLEST_DENSITY)
    if weighting == "equal":
        return np.zeros_like(floor_K)
    if weighting == "transferability":
        return transferability_K.astype(np.float64)
    return (transferability_K if weighting == "both" else 1.0) / floor_K


def size_scores(size_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return z with softmax(z) in proportion to the sizes, float64 [K]; for a temperature of 1."""
    return np.log(np.maximum(size_K, 1))


def softmax(score_K: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return exp(score / temperature) normalised to sum 1, safe for any positive temperature.

    Raises:
        UserError: the temperature is not a positive number.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise UserError(f"temperature is {temperature}; it must be a positive number (COINCIDE uses 0.1)")
    if score_K.size == 0:
        return np.zeros(0)
    # Dividing the difference, not the scores, keeps infinity minus infinity out of a tiny temperature.
    with np.errstate(over="ignore", under="ignore"):
        weight_K = np.exp((score_K - score_K.max()) / temperature)
    return weight_K / weight_K.sum()


def allocate(
    score_K: NDArray[np.float64],
    size_K: NDArray[np.int64],
    target: int,
    *,
    temperature: float,
    guards: Guards | None = None,
) -> Allocation:
    """Divide `target` rows among clusters.

    Args:
        score_K: z of `cluster_scores`, in the order of cluster ids.
        size_K: rows of each cluster; empty clusters take no part.
        target: rows wanted.
        temperature: tau.
        guards: bounds per cluster; none by default.

    Raises:
        UserError: a bad temperature, or minimum quotas that add up to more than `target`.
    """
    bounds = guards or Guards()
    present = np.flatnonzero(size_K > 0)
    probability_K = np.zeros(size_K.shape[0])
    probability_K[present] = softmax(score_K[present], temperature)
    room_K = np.floor(size_K * bounds.max_keep_fraction).astype(np.int64)
    quota_K = np.minimum(room_K, bounds.min_cluster_keep)
    if quota_K.sum() > target:
        raise UserError(
            f"min_cluster_keep={bounds.min_cluster_keep} asks for {int(quota_K.sum())} rows in all but the target is "
            f"{target}; lower min_cluster_keep or raise the ratio"
        )
    by_score = present[np.lexsort((present, -score_K[present]))]
    left = target - int(quota_K.sum())
    after_first: int | None = None
    while left > 0:
        roomy = by_score[quota_K[by_score] < room_K[by_score]]
        if roomy.size == 0:
            break
        taken = _one_pass(score_K[roomy], (room_K - quota_K)[roomy], left, temperature)
        quota_K[roomy] += taken
        left -= int(taken.sum())
        after_first = left if after_first is None else after_first
    return Allocation(probability_K=probability_K, quota_K=quota_K, redistributed=(after_first or 0) - left)


def _one_pass(
    score_K: NDArray[np.float64], room_K: NDArray[np.int64], target: int, temperature: float
) -> NDArray[np.int64]:
    """Allocate once to clusters sorted by descending score, as published."""
    with np.errstate(over="ignore", under="ignore"):
        step_K = np.exp(np.diff(score_K) / temperature).tolist()
    inverse_share = [1.0] * score_K.shape[0]
    for index in range(score_K.shape[0] - 2, -1, -1):
        inverse_share[index] = 1.0 + step_K[index] * inverse_share[index + 1]
    left = target
    taken = []
    for share, room in zip(inverse_share, room_K.tolist(), strict=True):
        count = min(room, round(left / share))
        taken.append(count)
        left -= count
    return np.array(taken, dtype=np.int64)
