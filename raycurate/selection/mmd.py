"""The greedy MMD order of a cluster (COINCIDE, arXiv 2406.10995, Eq. 7; greedy as in MMD-critic, Kim et al.
2016).

The coreset S of a cluster C grows by the row that makes MMD^2(C, S) smallest. With r_x = mean_{a in C} k(a,
x), c_j = sum_{s in S} k(s, j) and m = |S| + 1, the terms common to all candidates drop out and, as k_jj = 1,

    next = argmax_j  r_j - c_j / m

and afterwards c += k(:, next). Each pick depends on earlier picks only, so the picks for every quota are
prefixes of one order: it is computed once, and any later temperature or ratio keeps `rank < quota`.

Scores are compared as integers, m * sum_a k(a, j) - n * c_j in units of 2^-31 (`kernel.py`): no rounding, so
ties are real ties and go to the lowest key. The published program evaluates every candidate subset anew,
O(n^2 M^2) time and 2 n^3 bytes; this is O(n) a pick.

Cost: n^2 D FLOP for the kernel, n^2 integer operations for the full order; 4 n^2 bytes, on disk beyond
`kernel_bytes`. Limits: clusters above `max_rows` are ranked in chunks (`chunks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.chunks import chunk_of, interleaved_ranks, num_chunks
from raycurate.selection.density import Density, density_of, merge_densities
from raycurate.selection.exact import squared_norms
from raycurate.selection.kernel import DEFAULT_KERNEL_BYTES, ONE, Kernel, gaussian_kernel
from raycurate.selection.keys import Keys
from raycurate.selection.ranked import Grouping, GroupRows, Ordering

DEFAULT_MAX_ROWS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterRanking:
    """The greedy order of one cluster or chunk.

    Attributes:
        rank_N: rank of each input row, 0 for the first pick, int64 [N].
        kernel_mean_N: mean similarity of each input row to its cluster (chunk), itself included, float64 [N].
        density: kernel sums; `.paper` and `.code` are the two readings of D.
    """

    rank_N: NDArray[np.int64]
    kernel_mean_N: NDArray[np.float64]
    density: Density

    @property
    def order_N(self) -> NDArray[np.int64]:
        """Input rows in the order of their picks, [N]."""
        return np.argsort(self.rank_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class GreedyMmd:
    """The ranking of COINCIDE and of `balanced` (a `ranked.Ranked` without a selector of its own).

    Attributes:
        sigma: width of the Gaussian kernel.
        kernel_bytes: the most memory for a kernel; a larger one is kept in a temporary file.
        by_task: order the rows of each task in a cluster by themselves, as `balanced` wants them.
    """

    rank_features: ClassVar[str] = "main"
    rank_score: ClassVar[tuple[str, str] | None] = None

    sigma: float = 1.0
    kernel_bytes: int = DEFAULT_KERNEL_BYTES
    by_task: bool = False

    @property
    def rank_grouping(self) -> Grouping:
        """One cluster, or one task in it, or one chunk of either, at a time."""
        return "cell" if self.by_task else "cluster"

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the rows twice (sorting copies them); the kernel is bounded by `kernel_bytes`."""
        return 4 * dim

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Rank by greedy MMD; the value is the mean similarity to the group."""
        made = rank_chunk(rows.features_ND, rows.keys_N, sigma=self.sigma, kernel_bytes=self.kernel_bytes)
        return Ordering(rank_N=made.rank_N, value_N=made.kernel_mean_N, density=made.density)


def greedy_order(kernel: Kernel) -> NDArray[np.int64]:
    """Return row indices in the order of greedy MMD picks, [N]; ties go to the lowest index."""
    sums_N = kernel.sums_N.copy()
    rows_N = sums_N.shape[0]
    chosen_sum_N = np.zeros(rows_N, dtype=np.int64)
    score_N = np.empty(rows_N, dtype=np.int64)
    scratch_N = np.empty(rows_N, dtype=np.int64)
    order_N = np.empty(rows_N, dtype=np.int64)
    for picked in range(rows_N):
        np.multiply(sums_N, picked + 1, out=score_N)
        np.multiply(chosen_sum_N, rows_N, out=scratch_N)
        score_N -= scratch_N
        best = int(score_N.argmax())
        order_N[picked] = best
        chosen_sum_N += kernel.values_NN[best]
        # Below any score that a row not yet picked can have, and within int64 for n <= MAX_ROWS.
        sums_N[best] = -rows_N * ONE
    return order_N


def rank_chunk(
    features_ND: NDArray[Any], keys_N: Keys, *, sigma: float = 1.0, kernel_bytes: int = DEFAULT_KERNEL_BYTES
) -> ClusterRanking:
    """Rank the rows of one chunk (usually a whole cluster) by greedy MMD.

    Args:
        features_ND: unit feature rows, float16 as stored, in any order (rows sorted by key are not copied).
        keys_N: their keys (`keys.key_array`), unique.
        sigma: width of the Gaussian kernel.
        kernel_bytes: the most memory for the kernel; a larger one is kept in a temporary file.

    Raises:
        UserError: features that are not finite (the first such key is named), or a bad `sigma`.
    """
    norms_N = _checked_norms(features_ND, keys_N)
    by_key = np.argsort(keys_N, kind="stable")
    in_order = bool((by_key == np.arange(by_key.shape[0])).all())
    sorted_ND = features_ND if in_order else features_ND[by_key]
    kernel = gaussian_kernel(sorted_ND, norms_N[by_key], sigma, kernel_bytes)
    order_N = by_key[greedy_order(kernel)]
    rows_N = order_N.shape[0]
    rank_N = np.empty(rows_N, dtype=np.int64)
    rank_N[order_N] = np.arange(rows_N)
    mean_N = np.empty(rows_N)
    mean_N[by_key] = kernel.sums_N / (max(rows_N, 1) * ONE)
    return ClusterRanking(rank_N=rank_N, kernel_mean_N=mean_N, density=density_of(kernel.sums_N.tolist()))


def rank_cluster(
    features_ND: NDArray[Any],
    keys_N: Keys,
    *,
    sigma: float = 1.0,
    kernel_bytes: int = DEFAULT_KERNEL_BYTES,
    max_rows: int = DEFAULT_MAX_ROWS,
) -> ClusterRanking:
    """Rank all rows of one cluster, in chunks where it is larger than `max_rows`.

    A stage that cannot hold such a cluster calls `rank_chunk` on each chunk and `interleaved_ranks`: the same result.
    """
    rows_N = keys_N.shape[0]
    count = num_chunks(rows_N, max_rows)
    if count == 1:
        return rank_chunk(features_ND, keys_N, sigma=sigma, kernel_bytes=kernel_bytes)
    chunk_N = chunk_of(keys_N, count)
    sizes = np.bincount(chunk_N, minlength=count).tolist()
    rank_N = np.empty(rows_N, dtype=np.int64)
    mean_N = np.empty(rows_N)
    parts = []
    for chunk in range(count):
        rows = np.flatnonzero(chunk_N == chunk)
        part = rank_chunk(features_ND[rows], keys_N[rows], sigma=sigma, kernel_bytes=kernel_bytes)
        rank_N[rows] = interleaved_ranks(part.rank_N, chunk, sizes)
        mean_N[rows] = part.kernel_mean_N
        parts.append(part.density)
    return ClusterRanking(rank_N=rank_N, kernel_mean_N=mean_N, density=merge_densities(parts))


def _checked_norms(features_ND: NDArray[Any], keys_N: Keys) -> NDArray[np.float64]:
    if features_ND.ndim != 2 or features_ND.shape[0] != keys_N.shape[0]:
        raise UserError(f"features of shape {features_ND.shape} for {keys_N.shape[0]} keys; one row a key is needed")
    norms_N = squared_norms(features_ND)
    bad_N = ~np.isfinite(norms_N)
    if bad_N.any():
        key = keys_N[int(bad_N.argmax())].decode()
        raise UserError(f"{int(bad_N.sum())} feature rows are not finite, the first is {key}: extract them again")
    return norms_N
