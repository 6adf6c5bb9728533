"""Take the row of the highest score, lower its neighbours, repeat: the loop of D2 pruning and Self-Filter.

    i = argmax_j g_j over the rows left;   g_j -= g_i * w_ij for every neighbour j of i that is left

The true argmax, by a heap whose outdated entries are skipped: O((N + N K) log N) for the order of all N rows, where
re-sorting at each pick is O(N^2 log N). A score that grows (g_i below zero) is handled the same way. Ties go to the
lower row number. Memory: 8 N for the scores and at most N (K + 1) heap entries of about 100 bytes.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray


def greedy_order(
    score_N: NDArray[np.float64], ids_NK: NDArray[np.integer[Any]], weight_NK: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows in the order of their picks, int64 [N], and each row's score when it was picked, float64 [N].

    Args:
        score_N: scores at the start, finite.
        ids_NK: neighbours of each row, -1 for none.
        weight_NK: their weights w.
    """
    current = score_N.tolist()
    picked = [False] * len(current)
    order: list[int] = []
    heap = [(-score, row) for row, score in enumerate(current)]
    heapq.heapify(heap)
    while heap:
        negative, row = heapq.heappop(heap)
        if picked[row] or -negative != current[row]:
            continue
        picked[row] = True
        order.append(row)
        for other, weight in zip(ids_NK[row].tolist(), weight_NK[row].tolist(), strict=True):
            if other >= 0 and not picked[other] and weight:
                current[other] -= current[row] * weight
                heapq.heappush(heap, (-current[other], other))
    return np.array(order, dtype=np.int64), np.array(current)
