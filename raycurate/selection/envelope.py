"""Bounds on what a method may take from each task, and a part of every task that is drawn.

    s_t   = the task's share of the target M (`shares.py`)             what a stratified draw gives
    c_t   = rows of t that the method keeps when it is left alone
    lo_t  = min(N_t, floor(floor s_t)),   hi_t = min(N_t, ceil(cap s_t))
    b_t   = clip(lambda (c_t + tiny s_t), lo_t, hi_t),   sum_t b_t = M     in whole rows by largest remainder
    r_t   = round(random_share b_t)                                    rows of t that are drawn by seeded hash
    b_t - r_t rows are the method's own (`enveloped.py`)

A method that scores rows knows nothing of the tasks that its score starves; a task that gives no row is lost for
whatever is trained. floor <= 1 <= cap, so bounds that meet M always exist. floor = 1 leaves every task its share s_t,
by largest remainder: with random_share = 1 that is the stratified draw. floor = 0 with no cap and random_share = 0 is
the method itself.

`tiny` (2^-40) gives what has no weight of its own its place in proportion to s_t. All in exact arithmetic, ties by the
task's name. Source: floors per source group as in GDO (arXiv 2603.12478), caps per source as in Cambrian-1, a random
part as in PreSel (arXiv 2503.07591). Cost: a table of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from raycurate.errors import UserError
from raycurate.selection.apportion import ABOVE, BELOW, apportion
from raycurate.selection.shares import decimal

TINY = Fraction(1, 2**40)
Bound = Literal["floor", "cap", "rows", ""]


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """The bounds.

    Attributes:
        floor: least part of its share that a task keeps, in [0, 1].
        cap: most times its share that a task keeps, 1 or more; infinity for no bound.
        random_share: part of each task's rows that is drawn at random, in [0, 1].
    """

    floor: float = 0.5
    cap: float = 2.0
    random_share: float = 0.3

    def __post_init__(self) -> None:
        for name in ("floor", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} of the envelope is {getattr(self, name)}; it must be from 0 to 1")
        if not self.cap >= 1:
            raise UserError(f"cap of the envelope is {self.cap}; it must be 1 or more (infinity: no bound)")

    def bounds(self, share: Fraction, rows: int) -> tuple[int, int]:
        """The least and the most that a task of this share and so many rows keeps."""
        low = min(rows, math.floor(decimal(self.floor) * share))
        return low, rows if math.isinf(self.cap) else min(rows, math.ceil(decimal(self.cap) * share))


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskBudget:
    """What one task keeps.

    Attributes:
        task: its name.
        usable: rows that can be kept.
        share: its share of the target.
        alone: rows that the method keeps of it alone.
        rows: rows that it keeps.
        drawn: those of them that are drawn.
        bound: what held the method back: `floor`, `cap`, `rows` (the task has no more), or nothing.
    """

    task: str
    usable: int
    share: Fraction
    alone: int
    rows: int
    drawn: int
    bound: Bound

    @property
    def is_untouched(self) -> bool:
        """Whether the method keeps what it keeps alone."""
        return self.rows == self.alone and self.drawn == 0


def task_budgets(
    envelope: Envelope,
    *,
    shares: Mapping[str, Fraction],
    alone: Mapping[str, int],
    usable: Mapping[str, int],
) -> list[TaskBudget]:
    """The budget of each task, sorted by name; as many rows in all as the method keeps alone.

    Args:
        envelope: the bounds.
        shares: of all tasks, which add up to that number, none above `usable`.
        alone: rows that the method keeps by task.
        usable: rows that can be kept by task.
    """
    names = sorted(shares)
    target = sum(alone.get(name, 0) for name in names)
    bounds = [envelope.bounds(shares[name], usable.get(name, 0)) for name in names]
    low, high = [low for low, _ in bounds], [high for _, high in bounds]
    whole = envelope.floor == 1
    weights = [shares[name] if whole else alone.get(name, 0) + TINY * shares[name] for name in names]
    made = apportion(weights, target, high, low)
    budgets = []
    for name, rows, clipped, most in zip(names, made.rows, made.clipped, high, strict=True):
        have, own = usable.get(name, 0), alone.get(name, 0)
        above: Bound = "rows" if most == have else "cap"
        raised = clipped == BELOW or (whole and rows > own)
        budgets.append(
            TaskBudget(
                task=name,
                usable=have,
                share=shares[name],
                alone=own,
                rows=rows,
                drawn=round(decimal(envelope.random_share) * rows),
                bound="floor" if raised else above if clipped == ABOVE else "",
            )
        )
    return budgets
