"""Farthest-point order of rows: each next row is the one that lies farthest from all rows taken before.

    d_j = min over taken rows i of ||x_i - x_j||^2;   take argmax_j d_j, again and again; ties to the lower row number

d_j never grows, so an old d_j bounds it from above: rows wait in a heap by their old distances, and only those that
come to its top are compared with the rows taken since, `BLOCK_ROWS` of them in one matrix product. The order is exactly
that of comparing everything at each step, since no row is taken on an old distance.

Cost: at most 2 D FLOP for each pair of a row and a taken row; 0.5 to 0.6 of the pairs are compared (4,000 and 8,000
rows around 40 and 100 centers, half of them taken). What fits into the caches is faster compared whole (8,000 rows of
1,024: 10 s against 19 s); what does not would be read once for each row taken, 2 GB for 266,000 of 4,096. Memory: 2 D
bytes a row, about 150 for the heap, and 8 D TILE_ROWS for the products.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.exact import TILE_ROWS, blocks, dots, squared_norms

BLOCK_ROWS = 64


def farthest_order(rows_ND: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the numbers of the first `count` rows, int64 [count]; row 0 comes first.

    Args:
        rows_ND: unit rows.
        count: at most as many as there are.
    """
    total = rows_ND.shape[0]
    assert count <= total, f"{count} of {total} rows"
    taken_M = np.zeros(count, dtype=np.int64)
    if count == 0:
        return taken_M
    square_N = squared_norms(rows_ND)
    far_N, seen_N = np.full(total, np.inf), np.zeros(total, dtype=np.int64)
    heap = [(-np.inf, row) for row in range(1, total)]
    done = 1
    while done < count:
        if seen_N[heap[0][1]] == done:
            taken_M[done] = heapq.heappop(heap)[1]
            done += 1
            continue
        old: list[int] = []
        while heap and len(old) < BLOCK_ROWS and seen_N[heap[0][1]] < done:
            old.append(heapq.heappop(heap)[1])
        block_B = np.array(old, dtype=np.int64)
        # Rows that have waited about as long are compared together: at most twice the pairs that each needs.
        waited_B = np.log2(done - seen_N[block_B]).astype(np.int64)
        for waited in np.unique(waited_B).tolist():
            own_B = block_B[waited_B == waited]
            nearest_B = _nearest(rows_ND, square_N, own_B, taken_M[seen_N[own_B].min() : done])
            far_N[own_B] = np.minimum(far_N[own_B], nearest_B)
        seen_N[block_B] = done
        for distance, row in zip(far_N[block_B].tolist(), old, strict=True):
            heapq.heappush(heap, (-distance, row))
    return taken_M


def _nearest(
    rows_ND: NDArray[Any], square_N: NDArray[np.float64], block_B: NDArray[np.int64], taken_M: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the squared distance of each row of a block to the nearest of some taken rows, [B]."""
    nearest_B = np.full(block_B.size, np.inf)
    own_BD = rows_ND[block_B]
    for tile in blocks(taken_M.size, TILE_ROWS):
        taken = taken_M[tile]
        squared_BM = square_N[block_B, None] + square_N[taken] - 2.0 * dots(own_BD, rows_ND[taken])
        np.minimum(nearest_B, squared_BM.min(axis=1), out=nearest_B)
    return nearest_B
