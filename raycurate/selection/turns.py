"""Rows for several targets that take turns, each the best row for it that nobody has taken.

    s(i, t) = max over the validation rows v of target t of cos(x_i, v)
    turn    : t takes argmax_i s(i, t) over the rows that are left, ties to the lower row; then it is the next target's

Cosines are exact (`exact.py`) but for the division by lengths, and rounded to 2^-40, so that rows of one direction tie;
validation rows come in blocks whose maxima are merged, so nothing depends on how they are divided. Every pick depends
on earlier picks only: one order serves every ratio. Cost: 2 N V D FLOP for V validation rows; N log N for each target's
order and N T steps for the turns, in one process that holds 24 N T bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.exact import TILE_ROWS, blocks, dots, squared_norms

UNITS = 2.0**40
"""A cosine is a whole number of their inverse: the last bits of a division would decide ties."""
BYTES_PER_TARGET = 24
"""Of memory that `take_turns` holds for each row and target."""


def nearest_of_targets(
    rows_ND: NDArray[Any], validation_VD: NDArray[Any], target_V: NDArray[np.int64], targets: int
) -> NDArray[np.float64]:
    """Return the largest cosine of each row to a validation row of each target, [N, T]; -2 for a target of none here.

    Args:
        rows_ND: rows to choose from.
        validation_VD: some of the validation rows; maxima of several blocks of them are merged by `numpy.maximum`.
        target_V: the target of each.
        targets: how many there are.
    """
    best_NT = np.full((rows_ND.shape[0], targets), -2.0)
    length_N, length_V = _lengths(rows_ND), _lengths(validation_VD)
    for own in blocks(rows_ND.shape[0], TILE_ROWS):
        for other in blocks(validation_VD.shape[0], TILE_ROWS):
            cosine = dots(rows_ND[own], validation_VD[other])
            cosine /= length_N[own, None] * length_V[other]
            cosine = np.rint(cosine * UNITS) / UNITS
            for target in np.unique(target_V[other]).tolist():
                nearest = cosine[:, target_V[other] == target].max(axis=1)
                np.maximum(best_NT[own, target], nearest, out=best_NT[own, target])
    return best_NT


def take_turns(similarity_NT: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all rows in the order in which they are taken, int64 [N], and s of each for the target that took it."""
    rows, targets = similarity_NT.shape
    orders = [np.argsort(-similarity_NT[:, target], kind="stable").astype(np.int32) for target in range(targets)]
    taken_N = np.zeros(rows, dtype=bool)
    next_T = [0] * targets
    order_N = np.empty(rows, dtype=np.int64)
    for turn in range(rows):
        target = turn % targets
        order, place = orders[target], next_T[target]
        while taken_N[order[place]]:
            place += 1
        order_N[turn] = order[place]
        taken_N[order[place]] = True
        next_T[target] = place + 1
    return order_N, similarity_NT[order_N, np.arange(rows) % max(targets, 1)]


def _lengths(rows_ND: NDArray[Any]) -> NDArray[np.float64]:
    length_N: NDArray[np.float64] = np.sqrt(squared_norms(rows_ND))
    length_N[length_N == 0] = 1.0
    return length_N
