"""Transferability of each cluster from the cosines of centroids (COINCIDE, arXiv 2406.10995, Eq. 5).

    paper:  S_i = 1/K sum_j cos(e_i, e_j)      all K targets, j = i included, as the formula says code:   the
    text halves of the centroids only, and entries with cos > 0.9 (which includes j = i) left out of both the
    sum and the count, as the authors' program does

Where every entry of a cluster exceeds 0.9 the program divides 0 by 0. Here S_i is then the plain mean over
all targets, which is at least as large as any mean of entries below the mask. Empty clusters are neither
sources nor targets (S = 0); a centroid of length zero has cosine 0 with everything.

The paper's mean needs no K x K matrix: it is the dot product of a unit centroid with the mean of all of them,
4 K D operations. The code's mask does: K^2 D / 2 FLOP in float64, by tiles of TILE_ROWS^2 (8 MiB), upper half
only. Every sum is exact (`exact.py`), so S does not depend on threads or tiling; its error is below 1e-7.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.exact import GRID, TILE_ROWS, blocks, dots

TransferabilityReading = Literal["paper", "code"]

MASK_ABOVE = 0.9
# Cosines are summed as integers in units of 2^-32: exact in float64 for up to 2^20 targets.
_COSINE_UNIT = float(2**32)


def transferability(
    centroids_KD: NDArray[Any],
    size_K: NDArray[np.int64],
    *,
    reading: TransferabilityReading = "paper",
    block_dim: int | None = None,
) -> NDArray[np.float64]:
    """Return S, float64 [K].

    Args:
        centroids_KD: cluster centroids, of any length.
        size_K: rows of each cluster; a cluster without rows is left out.
        reading: `paper` or `code`.
        block_dim: width of one feature block, needed by `code`; rows are [vision | text] blocks, layer by layer.

    Raises:
        UserError: centroids that are not finite, or widths that do not make whole [vision | text] pairs.
    """
    present = np.flatnonzero(size_K > 0)
    result_K = np.zeros(size_K.shape[0])
    if present.size == 0:
        return result_K
    if reading == "paper":
        result_K[present] = _mean_cosines(centroids_KD, present)
        return result_K
    text = text_columns(centroids_KD.shape[1], block_dim)
    units_KT = np.empty((present.size, text.size), dtype=np.float32)
    for rows in blocks(present.size, TILE_ROWS):
        units_KT[rows] = _units(centroids_KD[present[rows]][:, text])
    result_K[present] = _masked_means(units_KT)
    return result_K


def text_columns(dim: int, block_dim: int | None) -> NDArray[np.int64]:
    """Return the columns of the text halves of a feature row of width `dim`."""
    if block_dim is None or block_dim <= 0 or dim % (2 * block_dim):
        raise UserError(
            f"transferability reading 'code' needs rows of [vision | text] blocks; width {dim} is not a multiple "
            f"of twice the block width {block_dim}. Use the reading 'paper' for other features"
        )
    column = np.arange(dim)
    return column[(column // block_dim) % 2 == 1]


def _units(rows_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows of length 1 (or 0) with entries on the exact grid."""
    wide = rows_ND.astype(np.float64)
    norm_N1 = np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]
    if not np.isfinite(norm_N1).all():
        raise UserError("a cluster centroid is not finite; cluster again")
    unit = np.divide(wide, norm_N1, out=np.zeros_like(wide), where=norm_N1 > 0)
    return np.rint(unit * GRID) / GRID


def _mean_cosines(centroids_KD: NDArray[Any], present: NDArray[np.int64]) -> NDArray[np.float64]:
    total_D = np.zeros(centroids_KD.shape[1])
    for rows in blocks(present.size, TILE_ROWS):
        total_D += _units(centroids_KD[present[rows]]).sum(axis=0)
    mean_D = np.rint(total_D / present.size * GRID) / GRID
    return np.concatenate([_units(centroids_KD[present[rows]]) @ mean_D for rows in blocks(present.size, TILE_ROWS)])


def _masked_means(units_KT: NDArray[Any]) -> NDArray[np.float64]:
    count = units_KT.shape[0]
    below_K, below_count_K, all_K = np.zeros(count), np.zeros(count), np.zeros(count)
    for rows in blocks(count, TILE_ROWS):
        left = units_KT[rows]
        for columns in blocks(count, TILE_ROWS):
            if columns.start < rows.start:
                continue
            diagonal = columns == rows
            cosine = dots(left, left if diagonal else units_KT[columns])
            kept = cosine <= MASK_ABOVE
            cosine *= _COSINE_UNIT
            np.rint(cosine, out=cosine)
            for axis, side in ((1, rows),) if diagonal else ((1, rows), (0, columns)):
                all_K[side] += cosine.sum(axis=axis)
                below_K[side] += np.where(kept, cosine, 0.0).sum(axis=axis)
                below_count_K[side] += kept.sum(axis=axis)
    masked = below_count_K > 0
    sums_K = np.where(masked, below_K, all_K)
    return sums_K / (np.where(masked, below_count_K, count) * _COSINE_UNIT)
