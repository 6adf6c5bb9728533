"""PreSel's reference rows: which they are, what they say of their tasks, and the weights that follow.

    reference = the ceil(part N_t) rows of each task with the smallest hash(seed, key): the draw of `stratified`
    IRS_i     = loss of the answers with the questions / loss of the same answers to the images alone
    d_t       = mean of IRS_i over the reference rows of the task that have an image
    w_t       = softmax_t(-d_t / T),   T = 1 / sqrt(number of tasks) where none is given

IRS are added up as whole numbers of `UNIT`, so the weights are the same for any division of the rows. A task without
such a row has the mean of the other tasks' d. Cost: a table of tasks, and the passes of one cut over keys.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import EachBlock, Goal, Plan
from raycurate.selection.budget import softmax
from raycurate.selection.local import with_cuts
from raycurate.selection.methods.random import decide_by_hash, hash_order
from raycurate.selection.shares import decimal

UNIT = 2.0**-20
LARGEST = 2.0**30
"""Of an IRS that is counted: beyond it the loss on the image alone is zero for all that matters."""
DIGITS = 12


@dataclass(slots=True)
class IrsSums:
    """What is added up of the reference rows, by task: `UNIT`s of their IRS, and how many they are."""

    units: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(rows: pa.Table) -> IrsSums:
        """The sums of a block with the columns `task` and `irs`; rows without an IRS do not count."""
        known = rows.select(["task", "irs"]).filter(pc.is_finite(rows["irs"]))
        units_N = np.rint(np.minimum(known["irs"].to_numpy().astype(np.float64), LARGEST) / UNIT).astype(np.int64)
        sums = IrsSums()
        for task, units in zip(known["task"].to_pylist(), units_N.tolist(), strict=True):
            sums.units[task] += units
            sums.rows[task] += 1
        return sums

    @staticmethod
    def added(parts: Iterable[IrsSums]) -> IrsSums:
        """The sums of all blocks, in any order."""
        total = IrsSums()
        for part in parts:
            total.units.update(part.units)
            total.rows.update(part.rows)
        return total

    def difficulties(self) -> dict[str, float]:
        """d of each task that has one."""
        return {task: self.units[task] * UNIT / rows for task, rows in sorted(self.rows.items())}


def reference_plan(tasks: Mapping[str, int], part: float, seed: int, each_block: EachBlock) -> Plan:
    """Which rows are the reference, from blocks with the columns `key` and `task`; `in_reference` asks it."""
    names = sorted(tasks)
    quota = [math.ceil(decimal(part) * tasks[name]) for name in names]
    plan = Plan(
        goal=Goal(ratio=part, seed=seed),
        target=sum(quota),
        group_column="task",
        groups=pa.array(names, pa.string()),
        size_G=np.array([tasks[name] for name in names], dtype=np.int64),
        quota_G=np.array(quota, dtype=np.int64),
        needs_cut=True,
    )
    return with_cuts(plan, lambda rows: hash_order(plan, rows), each_block)


def in_reference(plan: Plan, rows: pa.Table) -> NDArray[np.bool_]:
    """Say which rows of a block are of the reference, bool [N]."""
    return decide_by_hash(plan, rows).kept_N


def task_weights(sums: IrsSums, tasks: Iterable[str], temperature: float | None = None) -> dict[str, float]:
    """Return w of each task; they add up to 1.

    Raises:
        UserError: no task has a row with an IRS.
    """
    known, names = sums.difficulties(), sorted(tasks)
    if not known:
        raise UserError(
            "none of the reference rows has an IRS, so tasks have no weights: see the quarantine of "
            "row_scores/reference, or score a larger part with --set reference_part=0.1"
        )
    usual = sum(known.values()) / len(known)
    value_T = np.array([known.get(name, usual) for name in names])
    weight_T = softmax(-value_T, 1.0 / math.sqrt(max(1, len(names))) if temperature is None else temperature)
    return {name: round(weight, DIGITS) for name, weight in zip(names, weight_T.tolist(), strict=True)}
