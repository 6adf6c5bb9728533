"""The influence of rows on targets by their gradients, as LESS and ICONS take it: cosines, mean over a target's rows.

    I(i, t) = mean over the validation rows v of target t of cos(g_i, g_v) = g_i . mean_v g_v      unit gradients
    votes_i = number of targets t for which I(i, t) is among the largest part p of all rows, ties included

Sums of float16 unit rows are exact in float64, and products with a mean on the grid of `exact.py` too: the same numbers
however rows and validation rows are divided. Cost: 2 N T D FLOP for T targets; 8 D bytes a target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.exact import TILE_ROWS, blocks, dots, on_grid


class TargetMeans:
    """Adds up the validation rows of each target."""

    def __init__(self, targets: int, dim: int) -> None:
        self.sum_TD = np.zeros((targets, dim))
        self.count_T = np.zeros(targets, dtype=np.int64)

    def add(self, validation_VD: NDArray[Any], target_V: NDArray[np.int64]) -> None:
        """Add some validation rows."""
        for rows in blocks(validation_VD.shape[0], TILE_ROWS):
            np.add.at(self.sum_TD, target_V[rows], validation_VD[rows].astype(np.float64))
        self.count_T += np.bincount(target_V, minlength=self.count_T.size)

    def cosines(self, rows_ND: NDArray[Any]) -> NDArray[np.float64]:
        """Return I of each row and target, [N, T]."""
        return dots(rows_ND, on_grid(self.sum_TD / np.maximum(self.count_T, 1)[:, None]))


def votes(influence_NT: NDArray[np.float64], part: float) -> NDArray[np.int64]:
    """Return for how many targets each row is among the largest `part`, at least one row, [N]."""
    rows, targets = influence_NT.shape
    count_N = np.zeros(rows, dtype=np.int64)
    wanted = min(rows, max(1, round(part * rows)))
    for target in range(targets if rows else 0):
        least = np.partition(influence_NT[:, target], rows - wanted)[rows - wanted]
        count_N += influence_NT[:, target] >= least
    return count_N
