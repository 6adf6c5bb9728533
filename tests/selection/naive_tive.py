"""TIVE as slow loops over Python floats: all pairs of a task, floors and largest remainders, one draw at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tests.selection.naive_cells import largest_remainders


def values(features: np.ndarray, tasks: Sequence[str]) -> list[float]:
    """The mean product of each row with all rows of its task, itself included."""
    wide = features.astype(np.float64)
    return [
        float(np.mean([wide[i] @ wide[j] for j in range(len(tasks)) if tasks[j] == tasks[i]]))
        for i in range(len(tasks))
    ]


def budgets(norms: Sequence[float], tasks: Sequence[str], usable: Sequence[bool], target: int, power: int) -> dict:
    """Rows of each task by its mean norm."""
    names = sorted({task for task, use in zip(tasks, usable, strict=True) if use})
    own = {name: [n for n, t, use in zip(norms, tasks, usable, strict=True) if t == name and use] for name in names}
    weights = [sum(n**power for n in own[name]) / len(own[name]) for name in names]
    sizes = [len(own[name]) for name in names]
    return dict(zip(names, largest_remainders(weights, min(target, sum(sizes)), sizes), strict=True))


def kept(
    keys: Sequence[str],
    tasks: Sequence[str],
    value: Sequence[float],
    usable: Sequence[bool],
    rows: Mapping[str, int],
    q: float,
    hashes: Sequence[int],
) -> set[str]:
    """The rows of the largest q s - log(-log u) of each task."""

    def place(i: int) -> tuple[float, str]:
        if math.isinf(q):
            return -value[i], keys[i]
        return -(q * value[i] - math.log(-math.log((hashes[i] // 2**12 + 0.5) / 2**52))), keys[i]

    chosen: set[str] = set()
    for task, count in rows.items():
        own = sorted((i for i in range(len(keys)) if tasks[i] == task and usable[i]), key=place)
        chosen |= {keys[i] for i in own[:count]}
    return chosen
