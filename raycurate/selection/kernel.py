"""Gaussian kernels of one cluster as 32-bit fixed-point numbers.

k(x, y) = exp(-||x - y||^2 / (2 sigma^2)), COINCIDE (arXiv 2406.10995) Eq. 6; for unit rows and sigma = 1 this
is exp(cos - 1). Entries are stored as round(k * 2^31) in uint32: as small as float32 and 256 times finer near
1. Sums of them are integers, so the density and the greedy MMD order come out the same whatever the order of
summation, and exact duplicates tie exactly.

Cost: N^2 * D FLOP in float64 (the symmetric half), N^2 exponentials, 4 N^2 bytes: in memory up to `kernel_bytes`,
beyond it in an unnamed temporary file, of which the greedy order reads each row once. (Rows computed on demand were
tried in its place: 40 times slower with an eighth of them held.)
Limits: N <= MAX_ROWS (int64 scores of the greedy step); split a larger cluster first (`chunks.py`).
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.exact import TILE_ROWS, blocks, dots

ONE = 2**31
MAX_ROWS = 46_340
DEFAULT_KERNEL_BYTES = 2**30


class Kernel(NamedTuple):
    """The kernel of one cluster in units of 2^-31.

    Attributes:
        values_NN: entries, uint32 [N, N]; symmetric, ONE on the diagonal.
        sums_N: row sums, the diagonal included, int64 [N].
    """

    values_NN: NDArray[np.uint32]
    sums_N: NDArray[np.int64]


def gaussian_kernel(
    features_ND: NDArray[Any], norms_N: NDArray[np.float64], sigma: float, kernel_bytes: int = DEFAULT_KERNEL_BYTES
) -> Kernel:
    """Return the kernel of one cluster; `norms_N` are the squared lengths of its rows.

    The upper tiles are computed and mirrored; more than `kernel_bytes` go to a temporary file.

    Raises:
        UserError: `sigma` is not a positive number, there are more than MAX_ROWS rows, or no room for the file.
    """
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(f"kernel width sigma is {sigma}; it must be a positive number (COINCIDE uses 1.0)")
    rows_N = features_ND.shape[0]
    if rows_N > MAX_ROWS:
        raise UserError(f"{rows_N} rows in one kernel; at most {MAX_ROWS} are possible: lower max_rows")
    values_NN = _square(rows_N, kernel_bytes)
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
            values_NN[rows, columns] = tile
            values_NN[columns, rows] = tile.T
    return Kernel(values_NN=values_NN, sums_N=sums_N)


def fixed_point(squared_distance: NDArray[np.float64], sigma: float) -> NDArray[np.uint32]:
    """Return round(2^31 exp(-d^2 / (2 sigma^2))); overwrites its argument."""
    np.maximum(squared_distance, 0.0, out=squared_distance)
    squared_distance /= -2.0 * sigma * sigma
    np.exp(squared_distance, out=squared_distance)
    squared_distance *= ONE
    np.rint(squared_distance, out=squared_distance)
    return squared_distance.astype(np.uint32)


def _square(rows_N: int, kernel_bytes: int) -> NDArray[np.uint32]:
    size = 4 * rows_N * rows_N
    if size <= kernel_bytes:
        return np.empty((rows_N, rows_N), dtype=np.uint32)
    with tempfile.TemporaryFile(prefix="raycurate-kernel-") as file:
        try:
            # Reserved now: a disk that fills up under a mapped file would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.uint32, mode="w+", shape=(rows_N, rows_N))
        except OSError as error:
            raise UserError(
                f"a cluster of {rows_N} rows needs {size >> 20} MiB in {tempfile.gettempdir()}: {error}; "
                "set TMPDIR to a larger disk, lower max_rows or raise kernel_mb"
            ) from error
