"""Quotas of tasks and of their clusters as slow loops over floats, for every method that divides rows by cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence


def largest_remainders(weights: list[float], target: int, sizes: list[int]) -> list[int]:
    """Floors and largest remainders in floats; what is above a size goes round again among the others."""
    rows, free = [0] * len(weights), set(range(len(weights)))
    left = target
    while True:
        total = sum(weights[i] for i in free)
        over = {i for i in free if left * weights[i] > sizes[i] * total * (1 + 1e-12)}
        if not over:
            break
        for i in over:
            rows[i] = sizes[i]
        free -= over
        left = target - sum(sizes[i] for i in range(len(weights)) if i not in free)
    exact = {i: left * weights[i] / total for i in free}
    for i in free:
        rows[i] = int(exact[i] + 1e-9)
    by_remainder = sorted(free, key=lambda i: (-round(exact[i] - rows[i], 9), i))
    for i in by_remainder[: target - sum(rows)]:
        rows[i] += 1
    return rows


def first_of_cells(
    keys: Sequence[str],
    cells: Sequence[tuple[str, int] | None],
    tasks: Sequence[str],
    target: int,
    order: Callable[[int], object],
    power: float = 1.0,
) -> set[str]:
    """The first rows of each cell: shares of tasks by all their rows, of cells by those that are in one."""
    count, usable = Counter(tasks), Counter(cell[0] for cell in cells if cell)
    names = sorted(count)
    target = min(target, sum(usable.values()))
    shares = largest_remainders([count[n] ** power for n in names], target, [usable[n] for n in names])
    kept: set[str] = set()
    for name, quota in zip(names, shares, strict=True):
        own = sorted({cell for cell in cells if cell and cell[0] == name})
        held = [sorted((i for i in range(len(keys)) if cells[i] == cell), key=order) for cell in own]
        quotas = largest_remainders([len(rows) for rows in held], quota, [len(rows) for rows in held]) if own else []
        for rows, take in zip(held, quotas, strict=True):
            kept |= {keys[i] for i in rows[:take]}
    return kept
