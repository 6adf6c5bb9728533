"""Pearson's and Spearman's correlation with bootstrap intervals.

    pearson(x, y) = cov(x, y) / (sd(x) sd(y))             spearman(x, y) = pearson of the ranks, ties at their mean

The interval is the percentile bootstrap: n pairs are drawn with replacement, `resamples` times, and the interval holds
the middle `level` of the correlations. A resample in which one side is constant has no correlation; it is left out, and
counted in `undefined`.

Cost: resamples * n log n, and 3 * resamples * n * 8 bytes. Limits: pairs must be independent; with fewer than about
20 of them the interval is too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raycurate.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Correlation:
    """A coefficient with the bounds of its interval; all None where one side is constant."""

    value: float | None
    low: float | None
    high: float | None
    undefined: int

    def __str__(self) -> str:
        if self.value is None:
            return "none"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def correlate(
    x_N: Array, y_N: Array, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Correlation, Correlation]:
    """Return Pearson's and Spearman's correlation of N pairs, both from the same resamples.

    Raises:
        UserError: fewer than three pairs, values that are not finite, or a level that is not between 0 and 1.
    """
    if x_N.shape != y_N.shape or x_N.ndim != 1:
        raise UserError(f"a correlation needs two rows of equal length, got shapes {x_N.shape} and {y_N.shape}")
    if len(x_N) < 3:
        raise UserError(f"a correlation needs at least 3 pairs, got {len(x_N)}")
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise UserError("a correlation needs finite values; leave out the pairs that have none")
    if not 0 < level < 1 or resamples < 1:
        raise UserError(f"level {level} must be between 0 and 1, and resamples {resamples} at least 1")
    picks_BN = np.random.default_rng(seed).integers(len(x_N), size=(resamples, len(x_N)))
    rows_x, rows_y = (np.vstack([v_N, v_N[picks_BN]]) for v_N in (x_N, y_N))
    return _with_interval(_pearson(rows_x, rows_y), level), _with_interval(
        _pearson(_ranks(rows_x), _ranks(rows_y)), level
    )


def _pearson(x_BN: Array, y_BN: Array) -> Array:
    """Pearson's correlation of each row, nan where a row is constant; float64 [B]."""
    varies_B = (np.ptp(x_BN, axis=1) > 0) & (np.ptp(y_BN, axis=1) > 0)  # the mean of equal values may round
    x_BN, y_BN = (v_BN - v_BN.mean(axis=1, keepdims=True) for v_BN in (x_BN, y_BN))
    norms_B = np.sqrt(np.square(x_BN).sum(axis=1)) * np.sqrt(np.square(y_BN).sum(axis=1))
    products_B = (x_BN * y_BN).sum(axis=1)
    unknown_B = np.full(len(norms_B), np.nan)
    return np.clip(np.divide(products_B, norms_B, out=unknown_B, where=varies_B & (norms_B > 0)), -1, 1)


def _ranks(values_BN: Array) -> Array:
    return np.asarray(pd.DataFrame(values_BN).rank(axis=1), dtype=np.float64)


def _with_interval(values_B: Array, level: float) -> Correlation:
    """The first value is of the data itself, the others of the resamples."""
    defined = values_B[1:][np.isfinite(values_B[1:])]
    undefined = len(values_B) - 1 - len(defined)
    if not np.isfinite(values_B[0]) or not len(defined):
        return Correlation(None, None, None, undefined)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Correlation(float(values_B[0]), float(low), float(high), undefined)
