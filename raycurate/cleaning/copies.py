"""Which row of a group of like rows stays: the one whose key sorts first, and every other that is like none that stays.

    for the rows in the order of their keys:
        i goes  if  similarity(i, j) >= bound for a row j before it that stays; the first such j stands for it
        i stays otherwise

So each row that goes is like a row that stays, no chain of small differences is followed, and the answer depends on the
rows only. Content decides nothing: a longer answer is not a better one, and the key of a row never changes.

Cost: rows that stay times rows of the group, in tiles of `BLOCK` x `STAYING` similarities; memory: one tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK, STAYING = 1024, 4096
Rows = NDArray[np.int64]
Similarity = Callable[[Rows, Rows], NDArray[np.float64]]
"""The similarity of each of some rows with each of some others, by their numbers, [N, M]."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Who stands for each row of a group.

    Attributes:
        like_N: number of the row that stays for it; -1 for a row that stays, int64 [N].
        similarity_N: with that row; NaN for a row that stays, float64 [N].
    """

    like_N: NDArray[np.int64]
    similarity_N: NDArray[np.float64]


def find_copies(rows: int, similarity: Similarity, bound: float) -> Copies:
    """Say of each row of a group, in the order of keys, which one stands for it."""
    like_N = np.full(rows, -1, dtype=np.int64)
    similarity_N = np.full(rows, np.nan)
    staying = np.empty(rows, dtype=np.int64)
    count = 0
    for start in range(0, rows, BLOCK):
        block_B = np.arange(start, min(start + BLOCK, rows))
        for first in range(0, count, STAYING):
            open_B = block_B[like_N[block_B] < 0]
            if open_B.size:
                before_M = staying[first : min(first + STAYING, count)]
                _take_first(open_B, before_M, similarity(open_B, before_M), bound, like_N, similarity_N)
        open_B = block_B[like_N[block_B] < 0]
        _within(open_B, similarity(open_B, open_B), bound, like_N, similarity_N)
        stays_B = block_B[like_N[block_B] < 0]
        staying[count : count + stays_B.size] = stays_B
        count += stays_B.size
    return Copies(like_N, similarity_N)


def all_copies(rows: int) -> Copies:
    """Every row of the group is a copy of its first one."""
    like_N, similarity_N = np.zeros(rows, dtype=np.int64), np.ones(rows)
    like_N[0], similarity_N[0] = -1, np.nan
    return Copies(like_N, similarity_N)


def _take_first(
    open_B: Rows,
    before_M: Rows,
    similarity_BM: NDArray[np.float64],
    bound: float,
    like_N: NDArray[np.int64],
    similarity_N: NDArray[np.float64],
) -> None:
    near_BM = similarity_BM >= bound
    at = np.flatnonzero(near_BM.any(axis=1))
    first = near_BM[at].argmax(axis=1)
    like_N[open_B[at]] = before_M[first]
    similarity_N[open_B[at]] = similarity_BM[at, first]


def _within(
    open_B: Rows,
    similarity_BB: NDArray[np.float64],
    bound: float,
    like_N: NDArray[np.int64],
    similarity_N: NDArray[np.float64],
) -> None:
    """The rows of one block among themselves, one after the other."""
    near_BB = np.tril(similarity_BB >= bound, k=-1)
    stays_B = np.ones(open_B.size, dtype=bool)
    for row in np.flatnonzero(near_BB.any(axis=1)).tolist():
        found = np.flatnonzero(near_BB[row] & stays_B)
        if found.size:
            stays_B[row] = False
            like_N[open_B[row]] = open_B[found[0]]
            similarity_N[open_B[row]] = similarity_BB[row, found[0]]
