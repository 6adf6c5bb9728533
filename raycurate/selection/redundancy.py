"""Redundancy of each row by Pearson correlation, in two streaming passes (PRISM, arXiv 2502.12119).

Pearson(x_i, x_j) = z_i . z_j with z the row minus its own mean, scaled to length 1. The sum over all rows
therefore needs no N x N matrix:

    sum_j Pearson(x_i, x_j) = z_i . (sum_j z_j)         j = i included

Pass 1 adds up z (mergeable by addition), pass 2 takes one dot product a row. Cost: N D a pass, 8 D bytes.
A constant row has no direction: z = 0, redundancy 0. Entries of z are rounded to the grid of `exact.py` (an error of
7.5e-9 at most), so the sum is exact for up to 2^27 rows, in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.exact import on_grid


def pearson_units(rows_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows minus their own mean, scaled to length 1 (or 0), on the grid, float64 [N, D]."""
    wide_ND = rows_ND.astype(np.float64)
    wide_ND -= wide_ND.mean(axis=1, keepdims=True)
    norm_N1 = np.sqrt(np.einsum("nd,nd->n", wide_ND, wide_ND))[:, None]
    return on_grid(np.divide(wide_ND, norm_N1, out=np.zeros_like(wide_ND), where=norm_N1 > 0))


def unit_sum(rows_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum of the centred unit rows of a block, [D]; add the blocks."""
    total_D: NDArray[np.float64] = pearson_units(rows_ND).sum(axis=0)
    return total_D


def redundancy(rows_ND: NDArray[Any], total_D: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of Pearson correlations of each row with all rows, itself included, [N]."""
    return pearson_units(rows_ND) @ total_D
