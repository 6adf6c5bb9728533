"""COINCIDE written straight from its published formulas, in float64 and without regard to cost.

The reference for the tests of `raycurate.selection`: nothing here is shared with the package.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Candidates whose MMD^2 differs by less than this are the same to float64; the lowest key is then the pick.
TIE = 1e-13

Matrix = NDArray[np.float64]


def kernel(features: Matrix, sigma: float) -> Matrix:
    """k(p, q) = exp(-||u_p - u_q||^2 / (2 sigma^2)), pair by pair."""
    wide = features.astype(np.float64)
    difference = wide[:, None, :] - wide[None, :, :]
    return np.exp(-(difference**2).sum(axis=2) / (2 * sigma**2))


def density(kernel_nn: Matrix, reading: str) -> float:
    """Mean similarity over distinct pairs (`paper`) or over all pairs (`code`)."""
    rows = kernel_nn.shape[0]
    if reading == "code":
        return float(kernel_nn.mean())
    if rows == 1:
        return 1.0
    pairs = [kernel_nn[p, q] for p in range(rows) for q in range(rows) if p != q]
    return math.fsum(pairs) / len(pairs)


def transferability(centroids: Matrix, reading: str, block_dim: int) -> list[float]:
    """S_i over all targets (`paper`), or over text halves without cosines above 0.9 (`code`)."""
    wide = centroids.astype(np.float64)
    if reading == "code":
        layers = wide.shape[1] // (2 * block_dim)
        wide = wide.reshape(-1, layers, 2 * block_dim)[:, :, block_dim:].reshape(wide.shape[0], -1)
    result = []
    for source in wide:
        cosines = [
            float(source @ target / (np.linalg.norm(source) * np.linalg.norm(target)))
            if source.any() and target.any()
            else 0.0
            for target in wide
        ]
        kept = [value for value in cosines if value <= 0.9] if reading == "code" else cosines
        kept = kept or cosines
        result.append(sum(kept) / len(kept))
    return result


def mmd_squared(kernel_nn: Matrix, subset: list[int]) -> float:
    """MMD^2(C, C') = A(C, C) + A(C', C') - 2 A(C, C')."""
    return float(kernel_nn.mean() + kernel_nn[np.ix_(subset, subset)].mean() - 2 * kernel_nn[:, subset].mean())


def greedy(kernel_nn: Matrix, count: int) -> list[int]:
    """Grow C' by the row that makes MMD^2 smallest, every candidate evaluated anew; ties to the lowest row."""
    chosen: list[int] = []
    for _ in range(count):
        left = [row for row in range(kernel_nn.shape[0]) if row not in chosen]
        values = [mmd_squared(kernel_nn, [*chosen, row]) for row in left]
        best = min(values)
        chosen.append(next(row for row, value in zip(left, values, strict=True) if value <= best + TIE))
    return chosen


def greedy_by_subsets(kernel_nn: Matrix, count: int) -> list[int]:
    """The same picks with the published program's cost: all candidate subsets gathered at each step."""
    rows = kernel_nn.shape[0]
    chosen: list[int] = []
    for _ in range(count):
        left = np.setdiff1d(np.arange(rows), chosen)
        subsets = np.hstack([np.tile(np.array(chosen, dtype=int), (left.size, 1)), left[:, None]])
        within = kernel_nn[subsets[:, :, None], subsets[:, None, :]].mean(axis=(1, 2))
        across = kernel_nn[:, subsets].mean(axis=(0, 2))
        value = within - 2 * across
        chosen.append(int(left[np.flatnonzero(value <= value.min() + TIE)[0]]))
    return chosen


def allocate(scores: list[float], sizes: list[int], target: int, temperature: float) -> list[int]:
    """The published single pass: softmax over the clusters not yet visited, rounded half to even, capped."""
    order = sorted(range(len(scores)), key=lambda cluster: (-scores[cluster], cluster))
    quota = [0] * len(scores)
    left = target
    for position, cluster in enumerate(order):
        rest = [scores[other] / temperature for other in order[position:]]
        weights = [math.exp(value - max(rest)) for value in rest]
        quota[cluster] = min(sizes[cluster], round(left * weights[0] / math.fsum(weights)))
        left -= quota[cluster]
    return quota


def allocate_all(scores: list[float], sizes: list[int], target: int, temperature: float) -> list[int]:
    """The published pass, repeated among clusters with room until the target is met or all rows are taken."""
    quota = [0] * len(scores)
    while sum(quota) < min(target, sum(sizes)):
        roomy = [cluster for cluster in range(len(scores)) if quota[cluster] < sizes[cluster]]
        more = allocate(
            [scores[cluster] for cluster in roomy],
            [sizes[cluster] - quota[cluster] for cluster in roomy],
            target - sum(quota),
            temperature,
        )
        for cluster, count in zip(roomy, more, strict=True):
            quota[cluster] += count
    return quota


def select(
    features: Matrix,
    keys: list[str],
    labels: list[int],
    centroids: Matrix,
    *,
    ratio: float,
    temperature: float,
    sigma: float,
    s_reading: str,
    d_reading: str,
    block_dim: int,
) -> set[str]:
    """Return the keys that COINCIDE keeps; every cluster has rows."""
    members = [
        sorted((row for row in range(len(keys)) if labels[row] == cluster), key=lambda row: keys[row])
        for cluster in range(centroids.shape[0])
    ]
    kernels = [kernel(features[rows], sigma) for rows in members]
    s_values = transferability(centroids, s_reading, block_dim)
    scores = [s / density(k, d_reading) for s, k in zip(s_values, kernels, strict=True)]
    quotas = allocate_all(scores, [len(rows) for rows in members], round(ratio * len(keys)), temperature)
    kept = set()
    for rows, kernel_nn, quota in zip(members, kernels, quotas, strict=True):
        kept |= {keys[rows[pick]] for pick in greedy(kernel_nn, quota)}
    return kept
