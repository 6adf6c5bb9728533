"""Arithmetic that gives the same bits for any number of workers, threads and blocks.

Rows are float16 with |x| <= 1: multiples of 2^-24. Three facts follow.

1. A float64 sum of up to 2^28 rows never rounds, so cluster sums do not depend on the order of addition.
2. Centroids are rounded to float32 multiples of 2^-28 (an error below 2^-29 an entry). A product of a row's and a
   centroid's entry is then a multiple of 2^-52, and by Cauchy-Schwarz every partial sum of a dot product of unit
   vectors stays below 2: a float64 dot product never rounds either, whatever the kernel that computes it.
3. What is not exact (squared norms of sums, objectives) is added by halving, elementwise, in an order that depends on
   the length only.

Cost: ``tree_sum`` reads and writes its argument about twice. Limits: |row| and |centroid| <= 1.4.
"""

from __future__ import annotations

import torch

CENTROID_GRID = float(2**28)
TREE_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Float64 values that a pass over many rows holds at once: a CPU's cache, or enough to keep a GPU busy."""


def tree_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum of the last axis in a fixed order of elementwise additions: [..., D] -> [...]."""
    while values.shape[-1] > 1:
        width = values.shape[-1]
        half = (width + 1) // 2
        folded = values[..., :half].clone()
        folded[..., : width - half] += values[..., half:]
        values = folded
    return values[..., 0]


def row_dots(left_KD: torch.Tensor, right_KD: torch.Tensor) -> torch.Tensor:
    """Row by row inner products in float64 in the fixed order, [K]; by blocks of rows."""
    dots_K = torch.empty(left_KD.shape[0], dtype=torch.float64, device=left_KD.device)
    for rows in wide_blocks(left_KD):
        dots_K[rows] = tree_sum(left_KD[rows].double() * right_KD[rows].double())
    return dots_K


def unit_centroids(sums_KD: torch.Tensor, fallback_KD: torch.Tensor) -> torch.Tensor:
    """Normalised sums on the centroid grid, float32 [K, D]; a zero sum keeps the row of ``fallback_KD``."""
    centroids_KD = fallback_KD.clone()
    for rows in wide_blocks(sums_KD):
        block = sums_KD[rows].double()
        norms = tree_sum(block * block).sqrt_()
        filled = norms > 0
        unit = on_grid(block / torch.where(filled, norms, 1.0)[:, None])
        centroids_KD[rows] = torch.where(filled[:, None], unit, centroids_KD[rows])
    return centroids_KD


def on_grid(values: torch.Tensor) -> torch.Tensor:
    """Float64 values rounded to float32 multiples of 2^-28."""
    return (values * CENTROID_GRID).round_().div_(CENTROID_GRID).float()


def wide_blocks(rows_ND: torch.Tensor) -> list[slice]:
    """Blocks of rows whose float64 values take `TREE_BYTES` of the device that the rows lie on."""
    return row_blocks(rows_ND.shape[0], TREE_BYTES[rows_ND.device.type] // (8 * rows_ND.shape[1]))


def row_blocks(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most ``size`` (at least one) that cover ``range(count)``."""
    size = max(1, size)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
