"""How similar rows are to their centroids, counted in bins: a quantile of any number of rows in a fixed memory.

The bins are ``WIDTH`` wide over [-1, 1], so a quantile is right to that; it is the lower edge of its bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH = 1e-4
BINS = round(2 / WIDTH)


class SimilarityCounts:
    """Rows by similarity, int64 [BINS], and their sum."""

    def __init__(self) -> None:
        self.rows_B = np.zeros(BINS, dtype=np.int64)
        self.total = 0.0

    @property
    def rows(self) -> int:
        """How many were counted."""
        return int(self.rows_B.sum())

    @property
    def mean(self) -> float:
        """Mean similarity; 0 of no rows."""
        return self.total / self.rows if self.rows else 0.0

    def add(self, similarity_N: NDArray[np.float32]) -> None:
        """Count more rows."""
        values_N = similarity_N.astype(np.float64)
        bin_N = np.clip(np.floor((values_N + 1) / WIDTH).astype(np.int64), 0, BINS - 1)
        self.rows_B += np.bincount(bin_N, minlength=BINS)
        self.total += float(values_N.sum())

    def quantile(self, part: float) -> float:
        """The lower edge of the bin that holds the row behind this part of the rows, in ascending order."""
        assert self.rows, "a quantile of no rows"
        behind_B = np.cumsum(self.rows_B)
        place = min(int(part * self.rows), self.rows - 1)
        return int(np.searchsorted(behind_B, place, side="right")) * WIDTH - 1

    def share_below(self, similarity: float) -> float:
        """The part of the rows in bins below that of a similarity; 0 of no rows."""
        below = int(self.rows_B[: round((similarity + 1) / WIDTH)].sum())
        return below / self.rows if self.rows else 0.0
