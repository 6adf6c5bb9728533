"""Dot products that do not depend on the order of summation.

A float64 holds 53 bits. If every entry of two vectors of norm at most 1.4 is a multiple of 2^-26, every
product is a multiple of 2^-52, and by Cauchy-Schwarz every partial sum stays below 2: no addition ever
rounds. The result of a GEMM is then the same for any number of threads, any BLAS and any blocking, which is
what makes a selection the same on every cluster. Rows stored in float16 with magnitudes at most 1 are on the
grid already (they are multiples of 2^-24); wider floats are rounded to it, an error of at most 7.5e-9 an
entry.

Cost: float64 GEMM, 2 * rows * rows * D FLOP; scratch memory 2 * TILE_ROWS * TILE_COLUMNS * 8 bytes = 128 MiB
at most. Limits: rows much longer than unit length are computed correctly, but only to float64 rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = float(2**26)
TILE_ROWS = 1024
TILE_COLUMNS = 8192


def on_grid(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return `values` as float64 multiples of 2^-26 (float16 values of magnitude <= 1 are unchanged)."""
    wide = values.astype(np.float64)
    if values.dtype != np.float16:
        wide *= GRID
        np.rint(wide, out=wide)
        wide /= GRID
    return wide


def dots(left_ND: NDArray[Any], right_MD: NDArray[Any]) -> NDArray[np.float64]:
    """Return the [N, M] inner products of two sets of rows, exact for unit rows; N * M * 8 bytes."""
    result_NM = np.zeros((left_ND.shape[0], right_MD.shape[0]))
    same = left_ND is right_MD
    for columns in blocks(left_ND.shape[1], TILE_COLUMNS):
        left = on_grid(left_ND[:, columns])
        right = left if same else on_grid(right_MD[:, columns])
        result_NM += left @ right.T
    return result_NM


def squared_norms(rows_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared length of each row, [N], by tiles."""
    norms_N = np.zeros(rows_ND.shape[0])
    for rows in blocks(rows_ND.shape[0], TILE_ROWS):
        for columns in blocks(rows_ND.shape[1], TILE_COLUMNS):
            tile = on_grid(rows_ND[rows, columns])
            norms_N[rows] += np.einsum("nd,nd->n", tile, tile)
    return norms_N


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` that cover `range(count)`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
