"""Take the row of the highest score, lower its neighbours, repeat: the loop of D2 pruning and Self-Filter.

    i = argmax_j g_j over the rows left;   g_j -= g_i * w_ij for every neighbour j of i that is left

The true argmax, by a heap whose outdated entries are skipped: O((N + N K) log N) for the order of all N rows, where
re-sorting at each pick is O(N^2 log N). The heap holds only rows above the score of the N/8-th row left; once they are
taken it is filled again, at most 8 (K + 1) times, since a pick lowers K rows. Most lowered rows fall below that score
and enter no heap: half the time of one heap of everything. A score that grows (g_i below zero) is handled the same
way. Ties go to the lower row number. Memory: 40 N for the scores and heap entries of about 100 bytes, N/8 and more
where scores tie or rows fall within the heap.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILLS = 8


def greedy_order(
    score_N: NDArray[np.float64], ids_NK: NDArray[np.integer[Any]], weight_NK: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows in the order of their picks, int64 [N], and each row's score when it was picked, float64 [N].

    Args:
        score_N: scores at the start, finite.
        ids_NK: neighbours of each row, -1 for none.
        weight_NK: their weights w.
    """
    rows = score_N.shape[0]
    current = score_N.tolist()
    left = bytearray(b"\1") * rows  # one entry costs a third of one of an array
    order: list[int] = []
    while len(order) < rows:
        left_L = np.flatnonzero(np.frombuffer(left, dtype=np.bool_))
        value_L = np.array(current)[left_L]
        place = max(0, left_L.size - -(-rows // FILLS))
        floor = float(np.partition(value_L, place)[place])
        order += _picks_above(floor, left_L[value_L >= floor], current, left, ids_NK, weight_NK)
    return np.array(order, dtype=np.int64), np.array(current)


def _picks_above(
    floor: float,
    top_L: NDArray[np.int64],
    current: list[float],
    left: bytearray,
    ids_NK: NDArray[np.integer[Any]],
    weight_NK: NDArray[np.float64],
) -> list[int]:
    """Pick until no score is `floor` or more; lowers `current` and clears `left`."""
    heap = [(-current[row], row) for row in top_L.tolist()]
    heapq.heapify(heap)
    order = []
    while heap:
        negative, row = heapq.heappop(heap)
        if not left[row] or -negative != current[row]:
            continue
        left[row] = 0
        order.append(row)
        for other, weight in zip(ids_NK[row].tolist(), weight_NK[row].tolist(), strict=True):
            if other >= 0 and left[other]:
                value = current[other] + negative * weight
                current[other] = value
                if value >= floor:
                    heapq.heappush(heap, (-value, other))
    return order
