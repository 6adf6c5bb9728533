"""Leverage scores of centred rows in two streaming passes (ScalSelect, arXiv 2602.11636).

    pass 1, mergeable:  n, s = sum x, G = sum x x^T;   covariance n-fold  G - s s^T / n = V diag(l) V^T
    pass 2, per row:    score_i = sum_{r <= k} ((x_i - mu) . v_r)^2 / l_r

which equals ||U_k[i]||^2 of the SVD of the centred matrix, and sums to k over all rows. k is given, or the
smallest rank that reaches a part of the energy. Cost: N D^2 FLOP a pass, 8 D^2 bytes (134 MB at D = 4,096).
Limits: directions with less than 1e-12 of the uncentred energy are noise of the subtraction and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError

NOISE = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """First and second moments of a set of rows; `merge` adds disjoint sets.

    Attributes:
        count: rows.
        sum_D: sum of the rows, float64 [D].
        gram_DD: sum of outer products, float64 [D, D].
    """

    count: int
    sum_D: NDArray[np.float64]
    gram_DD: NDArray[np.float64]

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together."""
        return Moments(
            count=self.count + other.count, sum_D=self.sum_D + other.sum_D, gram_DD=self.gram_DD + other.gram_DD
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LeverageBasis:
    """Leading directions of the centred rows.

    Attributes:
        mean_D: mean row.
        directions_DK: eigenvectors divided by the root of their energy.
    """

    mean_D: NDArray[np.float64]
    directions_DK: NDArray[np.float64]

    @property
    def rank(self) -> int:
        """Directions kept; the scores of all rows sum to it."""
        return int(self.directions_DK.shape[1])

    def scores(self, rows_ND: NDArray[Any]) -> NDArray[np.float64]:
        """Return the leverage score of each row, [N], in [0, 1]."""
        projected_NK = (rows_ND.astype(np.float64) - self.mean_D) @ self.directions_DK
        return np.einsum("nk,nk->n", projected_NK, projected_NK)


def moments_of(rows_ND: NDArray[Any]) -> Moments:
    """Return the moments of a block of rows."""
    wide_ND = rows_ND.astype(np.float64)
    return Moments(count=wide_ND.shape[0], sum_D=wide_ND.sum(axis=0), gram_DD=wide_ND.T @ wide_ND)


def leverage_basis(moments: Moments, *, rank: int | None = None, energy: float = 0.9) -> LeverageBasis:
    """Return the basis of `rank` directions, or of the fewest that hold the part `energy` of the variance.

    Raises:
        UserError: no rows, a rank below 1, or an energy outside (0, 1].
    """
    if moments.count == 0 or (rank is not None and rank < 1) or not 0 < energy <= 1:
        raise UserError(
            f"leverage needs rows, rank >= 1 and energy in (0, 1]; got {moments.count} rows, rank {rank}, "
            f"energy {energy}"
        )
    mean_D = moments.sum_D / moments.count
    values_D, vectors_DD = np.linalg.eigh(moments.gram_DD - moments.count * np.outer(mean_D, mean_D))
    values_D, vectors_DD = values_D[::-1], vectors_DD[:, ::-1]
    usable = int((values_D > NOISE * np.trace(moments.gram_DD)).sum())
    if rank is None:
        held_D = np.cumsum(values_D[:usable])
        rank = int(np.count_nonzero(held_D < energy * held_D[-1] * (1 - NOISE))) + 1 if usable else 0
    count = min(rank, usable)
    return LeverageBasis(mean_D=mean_D, directions_DK=vectors_DD[:, :count] / np.sqrt(values_D[:count]))
