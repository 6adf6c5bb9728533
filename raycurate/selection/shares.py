"""How much of a selection each task gets: in proportion to its size, to a power of it, or to weights besides.

    s_t = M N_t^power w_t / sum_u N_u^power w_u,   at most what the task has, the rest divided among the others

power 1 keeps the mix of the data, 0.5 is the square root, 0 gives every task alike; w_t are weights from outside, such
as CoTBal's (`raycurate balance`). Whole rows are by largest remainder (`apportion.py`), ties to the name that sorts
first. Weights are read as the decimal numbers that they are written as. Cost: a table of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from raycurate.selection.apportion import apportion
from raycurate.selection.base import Goal


@dataclass(frozen=True, slots=True)
class TaskShares:
    """The tasks' parts of a target.

    Attributes:
        share: before rounding.
        rows: whole rows, which add up to the target.
    """

    share: dict[str, Fraction]
    rows: dict[str, int]


def task_shares(
    sizes: Mapping[str, int], target: int, goal: Goal, *, usable: Mapping[str, int] | None = None
) -> TaskShares:
    """Divide `target` among tasks.

    Args:
        sizes: rows of each task, which its share follows.
        target: rows in all, at most what the tasks have.
        goal: with the power and the weights; a task that has no weight counts as one of weight 1.
        usable: rows of each task that can be kept; all of them by default.
    """
    names = sorted(sizes)
    room = [sizes[name] if usable is None else usable.get(name, 0) for name in names]
    made = apportion([_weight(name, sizes[name], goal) for name in names], target, room)
    return TaskShares(dict(zip(names, made.shares, strict=True)), dict(zip(names, made.rows, strict=True)))


def decimal(value: float) -> Fraction:
    """The number that a float was written as: 0.3 is three tenths."""
    return Fraction(repr(float(value)))


def _weight(name: str, size: int, goal: Goal) -> Fraction | int:
    powered: Fraction | int = size if goal.task_power == 1 else Fraction(float(size) ** goal.task_power)
    if goal.task_weights is None:
        return powered
    return powered * decimal(goal.task_weights.get(name, 1.0))
