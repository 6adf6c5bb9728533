"""Gaussian kernels of one cluster as 32-bit fixed-point numbers.

k(x, y) = exp(-||x - y||^2 / (2 sigma^2)), COINCIDE (arXiv 2406.10995) Eq. 6; for unit rows and sigma = 1 this
is exp(cos - 1). Entries are stored as round(k * 2^31) in uint32: as small as float32 and 256 times finer near
1. Sums of them are integers, so the density and the greedy MMD order come out the same whatever the order of
summation, and exact duplicates tie exactly.

Cost: N^2 * D FLOP in float64 (the symmetric half), N^2 exponentials, 4 N^2 bytes for the full matrix.
`RowCache` holds at most `kernel_bytes` of rows instead and computes them, a block at a time, when a pick asks
for one. Limits: N <= MAX_ROWS (int64 scores of the greedy step); split a larger cluster first (`chunks.py`).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.exact import TILE_ROWS, blocks, dots

ONE = 2**31
MAX_ROWS = 46_340
PREFETCH_ROWS = 256


class KernelRows(Protocol):
    """The kernel of one cluster, one row at a time."""

    sums_N: NDArray[np.int64]

    def row(self, index: int, scores_N: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return row `index`; `scores_N` says which rows are likely to be wanted next (higher is sooner)."""
        ...


class FullKernel:
    """The whole N x N matrix in memory."""

    def __init__(self, features_ND: NDArray[Any], norms_N: NDArray[np.float64], sigma: float) -> None:
        rows_N = features_ND.shape[0]
        self._kernel_NN = np.empty((rows_N, rows_N), dtype=np.uint32)
        self.sums_N = _each_tile(features_ND, norms_N, sigma, self._kernel_NN)

    def row(self, index: int, scores_N: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return row `index` of the matrix."""
        del scores_N
        return self._kernel_NN[index]


class RowCache:
    """Rows computed on demand: each miss computes the highest-scoring rows that are not held, as one GEMM.

    A row is used once, when it is picked, so the rows held are the likeliest next picks and the lowest-scoring make
    room for the new. Every value is exact, hence the picks are those of `FullKernel`.
    """

    def __init__(
        self, features_ND: NDArray[Any], norms_N: NDArray[np.float64], sigma: float, kernel_bytes: int
    ) -> None:
        rows_N = features_ND.shape[0]
        self._features_ND = features_ND
        self._sigma = sigma
        self._norms_N = norms_N
        capacity = max(1, min(rows_N, kernel_bytes // (4 * rows_N)))
        self._fetch = min(PREFETCH_ROWS, capacity)
        self._rows_CN = np.empty((capacity, rows_N), dtype=np.uint32)
        self._held_C = np.full(capacity, -1, dtype=np.int64)
        self._slot_N = np.full(rows_N, -1, dtype=np.int64)
        self.sums_N = _each_tile(features_ND, norms_N, sigma, None)

    def row(self, index: int, scores_N: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return row `index`, computing it and its likely successors if it is not held."""
        if self._slot_N[index] < 0:
            self._fill(index, scores_N)
        return self._rows_CN[self._slot_N[index]]

    def _fill(self, index: int, scores_N: NDArray[np.int64]) -> None:
        lowest = np.iinfo(np.int64).min
        wanted_N = np.where(self._slot_N < 0, scores_N, lowest)
        wanted_N[index] = np.iinfo(np.int64).max
        count = min(self._fetch, int((self._slot_N < 0).sum()))
        new_F = np.argpartition(wanted_N, -count)[-count:]
        slot_score_C = np.where(self._held_C < 0, lowest, scores_N[self._held_C])
        slots_F = np.argpartition(slot_score_C, count - 1)[:count]
        evicted = self._held_C[slots_F]
        self._slot_N[evicted[evicted >= 0]] = -1
        tile_FN = _tile(self._features_ND, self._norms_N, new_F, self._sigma)
        tile_FN[np.arange(count), new_F] = ONE
        self._rows_CN[slots_F] = tile_FN
        self._held_C[slots_F] = new_F
        self._slot_N[new_F] = slots_F


def gaussian_kernel(
    features_ND: NDArray[Any], norms_N: NDArray[np.float64], sigma: float, kernel_bytes: int
) -> KernelRows:
    """Return the kernel of one cluster, held whole if it fits in `kernel_bytes`; `norms_N` are squared lengths.

    Raises:
        UserError: `sigma` is not a positive number, or there are more than MAX_ROWS rows.
    """
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(f"kernel width sigma is {sigma}; it must be a positive number (COINCIDE uses 1.0)")
    rows_N = features_ND.shape[0]
    if rows_N > MAX_ROWS:
        raise UserError(f"{rows_N} rows in one kernel; at most {MAX_ROWS} are possible: lower max_cluster_rows")
    if 4 * rows_N * rows_N <= kernel_bytes:
        return FullKernel(features_ND, norms_N, sigma)
    return RowCache(features_ND, norms_N, sigma, kernel_bytes)


def fixed_point(squared_distance: NDArray[np.float64], sigma: float) -> NDArray[np.uint32]:
    """Return round(2^31 exp(-d^2 / (2 sigma^2))); overwrites its argument."""
    np.maximum(squared_distance, 0.0, out=squared_distance)
    squared_distance /= -2.0 * sigma * sigma
    np.exp(squared_distance, out=squared_distance)
    squared_distance *= ONE
    np.rint(squared_distance, out=squared_distance)
    return squared_distance.astype(np.uint32)


def _tile(
    features_ND: NDArray[Any], norms_N: NDArray[np.float64], rows: NDArray[np.int64], sigma: float
) -> NDArray[np.uint32]:
    tile = np.empty((rows.shape[0], features_ND.shape[0]), dtype=np.uint32)
    chosen = features_ND[rows]
    for columns in blocks(features_ND.shape[0], TILE_ROWS):
        distance = -2.0 * dots(chosen, features_ND[columns])
        distance += norms_N[rows, None]
        distance += norms_N[None, columns]
        tile[:, columns] = fixed_point(distance, sigma)
    return tile


def _each_tile(
    features_ND: NDArray[Any], norms_N: NDArray[np.float64], sigma: float, kernel_NN: NDArray[np.uint32] | None
) -> NDArray[np.int64]:
    """Compute the upper tiles once, mirror them into `kernel_NN` if given, and return the row sums [N]."""
    rows_N = features_ND.shape[0]
    sums_N = np.zeros(rows_N, dtype=np.int64)
    for rows in blocks(rows_N, TILE_ROWS):
        left = features_ND[rows]
        for columns in blocks(rows_N, TILE_ROWS):
            if columns.start < rows.start:
                continue
            diagonal = columns == rows
            distance = -2.0 * dots(left, left if diagonal else features_ND[columns])
            distance += norms_N[rows, None]
            distance += norms_N[None, columns]
            tile = fixed_point(distance, sigma)
            if diagonal:
                np.fill_diagonal(tile, ONE)
            else:
                sums_N[columns] += tile.sum(axis=0, dtype=np.int64)
            sums_N[rows] += tile.sum(axis=1, dtype=np.int64)
            if kernel_NN is not None:
                kernel_NN[rows, columns] = tile
                kernel_NN[columns, rows] = tile.T
    return sums_N
