"""MMD^2 between the kept rows and all rows, by random Fourier features (Rahimi and Recht, NIPS 2007).

For the Gaussian kernel k(x, y) = exp(-||x - y||^2 / (2 sigma^2)) and two finite sets P, Q of rows

    MMD^2(P, Q) = mean_PP k + mean_QQ k - 2 mean_PQ k = E_w |f_P(w) - f_Q(w)|^2,    w ~ N(0, I / sigma^2)
    f_P(w)      = (1 / |P|) sum_{x in P} exp(i w.x)

The mean over M drawn frequencies is therefore an unbiased estimate of the exact value over *all* rows, pairs of a row
with itself included as in COINCIDE's Eq. 7, and the spread over the frequencies gives its standard error: about
sqrt(2 / M) of the value for rows that lie close together, 9 % at M = 256. All selections are measured with the same
frequencies, so their differences are sharper than that. The exact value would take N^2 kernels.

A row's sketch is cos and sin of its M projections, as multiples of 2^-14. Features are multiples of 2^-24 and the
frequencies, before they are divided by sigma, of 2^-16: a projection of a unit row is exact in float64 for
D < 2^24, whatever the order of summation. Sums of sketches are sums of integers. Hence the same numbers for any
division of the rows.

Cost: 2 N D M FLOP in float64 once for all selections, 4 M bytes a row; one selection adds |P| 2 M integers.
Memory: D M 8 bytes for the frequencies and ROW_BLOCK rows in float64.
Limits: a value far below the error of rounding, about (2^-15)^2 / (3 |P|), is noise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.exact import blocks, on_grid

ONE = 2.0**14
FREQUENCY_GRID = 2.0**16
ROW_BLOCK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class SketchSum:
    """Sum of the sketches of a set of rows; `+` joins disjoint sets.

    Attributes:
        rows: number of rows.
        total_F: sums of cos, then of sin, in units of 2^-14, int64 [2 M].
    """

    rows: int
    total_F: NDArray[np.int64]

    def __add__(self, other: SketchSum) -> SketchSum:
        return SketchSum(rows=self.rows + other.rows, total_F=self.total_F + other.total_F)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A squared MMD and the standard error of the estimate."""

    value: float
    error: float


@functools.lru_cache(maxsize=1)
def frequencies(dimension: int, count: int, seed: int) -> NDArray[np.float64]:
    """Return `count` standard normal frequencies as multiples of 2^-16, float64 [D, M]; read-only."""
    drawn_DM = np.random.default_rng(seed).standard_normal((dimension, count))
    drawn_DM *= FREQUENCY_GRID
    np.rint(drawn_DM, out=drawn_DM)
    drawn_DM /= FREQUENCY_GRID
    drawn_DM.flags.writeable = False
    return drawn_DM


def sketch_rows(features_ND: NDArray[Any], frequency_DM: NDArray[np.float64], sigma: float = 1.0) -> NDArray[np.int16]:
    """Return the sketch of each row: cos, then sin, of its projections in units of 2^-14, int16 [N, 2 M].

    Raises:
        UserError: `sigma` is not a positive number.
    """
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(f"kernel width sigma is {sigma}; it must be a positive number (COINCIDE uses 1.0)")
    count = frequency_DM.shape[1]
    sketch_NF = np.empty((features_ND.shape[0], 2 * count), dtype=np.int16)
    for rows in blocks(features_ND.shape[0], ROW_BLOCK):
        angle = on_grid(features_ND[rows]) @ frequency_DM
        angle /= sigma
        sketch_NF[rows, :count] = np.rint(np.cos(angle) * ONE)
        sketch_NF[rows, count:] = np.rint(np.sin(angle) * ONE)
    return sketch_NF


def sum_sketches(sketch_NF: NDArray[np.int16]) -> SketchSum:
    """Return the sum of a block of sketches."""
    return SketchSum(rows=sketch_NF.shape[0], total_F=sketch_NF.sum(axis=0, dtype=np.int64))


def squared_mmd(one: SketchSum, other: SketchSum) -> Estimate | None:
    """Return the estimate between two sets of rows; None where one is empty."""
    if one.rows == 0 or other.rows == 0:
        return None
    gap_F = (one.total_F / one.rows - other.total_F / other.rows) / ONE
    power_M = (gap_F.reshape(2, -1) ** 2).sum(axis=0)
    error = power_M.std(ddof=1) / power_M.shape[0] ** 0.5 if power_M.shape[0] > 1 else float("nan")
    return Estimate(float(power_M.mean()), float(error))
