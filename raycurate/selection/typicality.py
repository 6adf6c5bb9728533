"""Typicality of the rows of a group: the mean cosine of each to its nearest ones.

    t_i = mean over the k nearest rows j != i of cos(x_i, x_j)

Cosines are exact (`exact.py`), and the k largest are added in order, so the numbers are the same for any blocks. A row
by itself has typicality 0. Cost: 2 n^2 D FLOP for n rows; memory: two tiles of `TILE_ROWS` rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.exact import TILE_ROWS, blocks, dots, squared_norms


def typicality(rows_ND: NDArray[Any], neighbours: int) -> NDArray[np.float64]:
    """Return t of each row, [N]; where there are fewer other rows than `neighbours`, the mean over all of them."""
    count = rows_ND.shape[0]
    nearest = min(neighbours, count - 1)
    if nearest < 1:
        return np.zeros(count)
    length_N = np.sqrt(squared_norms(rows_ND))
    length_N[length_N == 0] = 1.0
    mean_N = np.empty(count)
    for own in blocks(count, TILE_ROWS):
        best_BK = np.full((own.stop - own.start, nearest), -np.inf)
        for other in blocks(count, TILE_ROWS):
            cosine = dots(rows_ND[own], rows_ND[other])
            cosine /= length_N[own, None] * length_N[other]
            if own.start == other.start:
                np.fill_diagonal(cosine, -np.inf)
            held = np.concatenate([best_BK, cosine], axis=1)
            best_BK = np.partition(held, held.shape[1] - nearest, axis=1)[:, -nearest:]
        best_BK.sort(axis=1)
        mean_N[own] = np.cumsum(best_BK, axis=1)[:, -1] / nearest
    return mean_N
