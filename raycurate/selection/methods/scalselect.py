"""ScalSelect: the rows whose attended image tokens span what all rows show (arXiv 2602.11636).

    x_i   = mean state after the first decoder layer of the visual tokens that the question attends to, those of the
            highest attention that hold 0.9 of it (`features/first_layer.py`)
    X - mu = U S V^T,   k = the fewest directions that hold `energy` of sum S^2
    kept  : highest leverage ||U_k[i]||^2 first; of rows of text alone a part as large, drawn (`by_image.py`)

The decomposition is that of the D x D matrix of second moments, in two streaming passes (`leverage.py`); the published
program holds all of X and runs the full one twice. Rows are centred and nothing else, as its script runs it.

Source: the paper and its program (no licence; built from the formulas). Deviations: states travel as half floats and a
length; asking tokens are all text behind the first image that is neither answer nor special token, so that a template's
own words count as the user's; entries are rounded to `GRID`, so that sums of blocks are exact for entries below 8, and
leverages to 2^-40: the same rows whatever the number of workers, and but for the decomposition's last bits on any
machine.

Cost: vision tower and one layer a row; 2 N D^2 FLOP twice, and one eigendecomposition of D x D in one task. Memory:
8 D^2 bytes for the sums of a task and three times that for the decomposition (0.4 GB at D = 4,096). Limits: copies have
the same leverage, and outliers the highest; an envelope, or `semdedup` first, keeps them in bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.exact import blocks
from raycurate.selection.leverage import LeverageBasis, Moments, leverage_basis, moments_of
from raycurate.selection.methods.by_image import ByImage

GRID = 2.0**19
EXACT_ROWS = 256
"""Rows of one product, whose sums of entries of the grid up to 8 are exact in float64."""


@dataclass(frozen=True, kw_only=True)
class ScalSelect(ByImage):
    """Selector `scalselect`.

    Attributes:
        energy: part of the variance that the leading directions hold; 0.9 in the paper.
        rank: number of directions instead.
    """

    rank_features: ClassVar[str] = "attended"
    highest_first: ClassVar[bool] = True

    energy: float = 0.9
    rank: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise UserError(f"energy is {self.energy}; it must be above 0 and at most 1 (the paper's is 0.9)")
        if self.rank is not None and self.rank < 1:
            raise UserError(f"rank is {self.rank}; it must be at least 1")

    def rank_sum(self, features_ND: NDArray[Any], length_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return sum and second moments of the rows."""
        dim = features_ND.shape[1]
        total = Moments(count=0, sum_D=np.zeros(dim), gram_DD=np.zeros((dim, dim)))
        for block in blocks(len(features_ND), EXACT_ROWS):
            total = total.merge(moments_of(_states(features_ND[block], length_N[block])))
        return {"sum": total.sum_D, "gram": total.gram_DD}

    def rank_fit(self, total: Mapping[str, NDArray[np.float64]], count: int) -> dict[str, NDArray[np.float64]]:
        """Return the leading directions."""
        moments = Moments(count=count, sum_D=total["sum"], gram_DD=total["gram"])
        basis = leverage_basis(moments, rank=self.rank, energy=self.energy)
        return {"mean": basis.mean_D, "directions": basis.directions_DK}

    def rank_value(
        self, features_ND: NDArray[Any], length_N: NDArray[np.float64], fitted: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return the leverage of each row."""
        basis = LeverageBasis(mean_D=fitted["mean"], directions_DK=fitted["directions"])
        parts = [
            basis.scores(_states(features_ND[block], length_N[block])) for block in blocks(len(features_ND), EXACT_ROWS)
        ]
        return np.concatenate([np.zeros(0), *parts])


def _states(features_ND: NDArray[Any], length_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows at their own length, on the grid."""
    return np.rint(features_ND.astype(np.float64) * length_N[:, None] * GRID) / GRID
