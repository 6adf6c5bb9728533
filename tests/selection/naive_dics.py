"""DICS as slow loops: every distance at every step, pools by sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def farthest(features: np.ndarray, count: int) -> list[int]:
    """Row 0, then the row that is farthest from all before it, the first of equal ones."""
    wide = features.astype(np.float64)
    square = [float(row @ row) for row in wide]
    near = [math.inf] * len(wide)
    taken: list[int] = []
    for _ in range(count):
        best = -1
        for j in range(len(wide)):
            if j not in taken and (best < 0 or near[j] > near[best]):
                best = j
        taken.append(best)
        for j in range(len(wide)):
            near[j] = min(near[j], square[j] + square[best] - 2.0 * float(wide[j] @ wide[best]))
    return taken


def order(
    features: np.ndarray, keys: Sequence[str], loss: Sequence[float], blind: Sequence[float | None], ratio: float
) -> list[str]:
    """All keys in the order that they are kept in."""

    def vic(i: int) -> float:
        value = blind[i]
        return 1.0 if value is None else float(np.exp(value - loss[i]))

    ranked = sorted(range(len(keys)), key=lambda i: (-vic(i), keys[i]))
    wanted = round(ratio * len(keys))
    sure = max(0, 2 * wanted - len(keys))
    pool = ranked[sure : 2 * wanted]
    picks = farthest(features[pool], wanted - sure)
    rest = [row for place, row in enumerate(pool) if place not in picks]
    whole = [*ranked[:sure], *(pool[place] for place in picks), *rest, *ranked[2 * wanted :]]
    return [keys[i] for i in whole]
