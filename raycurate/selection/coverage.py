"""What a selection covers, and what it shares with others: clusters with a kept row, Jaccard overlap.

    covered = |{c : kept_c > 0}| / |{c : size_c > 0}|,    J(a, b) = |a & b| / |a | b|

Overlaps follow from counts |a & b| that add up over blocks of rows, the sizes |a| = |a & a| among them.
Cost: T^2 n for T selections of a block of n rows; T^2 numbers in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClusterCoverage:
    """Clusters that hold rows, and those of them that keep at least one; `share` is 0 without clusters."""

    clusters: int
    covered: int

    @property
    def share(self) -> float:
        """Part of the clusters that keep a row."""
        return self.covered / self.clusters if self.clusters else 0.0


def cluster_coverage(size_K: NDArray[np.int64], kept_K: NDArray[np.int64]) -> ClusterCoverage:
    """Return the coverage from rows and kept rows of each cluster; empty clusters do not count."""
    return ClusterCoverage(clusters=int((size_K > 0).sum()), covered=int(((size_K > 0) & (kept_K > 0)).sum()))


def shared_rows(kept_TN: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many rows of a block each pair of selections keeps both, [T, T]; add the blocks."""
    wide_TN = kept_TN.astype(np.float64)  # counts below 2^53 are exact
    return (wide_TN @ wide_TN.T).astype(np.int64)


def jaccard(shared_TT: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the overlap of each pair of selections, [T, T]; two that keep nothing are alike, 1."""
    size_T = np.diagonal(shared_TT)
    union_TT = size_T[:, None] + size_T[None, :] - shared_TT
    overlap_TT: NDArray[np.float64] = np.where(union_TT > 0, shared_TT / np.maximum(union_TT, 1), 1.0)
    return overlap_TT
