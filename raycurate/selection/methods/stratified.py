"""Random selection that keeps the mix of tasks: each task gives its share of the target.

    n_t = M N_t / N, rounded by largest remainder: floors first, the rows still missing go to the largest
    fractional parts, ties to the task that sorts first. The quotas add up to exactly M = round(ratio N).

With a task power or task weights the shares follow those (`shares.py`), and a task never gives more than it has.
Within a task the draw is that of `random`. Cost: as `random`; the task table is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from raycurate.errors import UserError
from raycurate.selection.base import Decisions, Goal, Plan, RowOrder, SelectionTables
from raycurate.selection.methods.random import decide_by_hash, hash_order
from raycurate.selection.shares import task_shares


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """Selector `stratified`; it has no options.

    Attributes:
        has_task_shares: it follows the power and the weights of tasks.
    """

    has_task_shares: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"samples"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "task"})

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group a task.

        Raises:
            UserError: no task table, or one that does not add up to the number of rows.
        """
        tasks = tables.tasks
        if not tasks or sum(tasks.values()) != tables.num_rows:
            counted = "no tasks" if not tasks else f"tasks of {sum(tasks.values())} rows"
            raise UserError(f"method 'stratified' has {counted} for {tables.num_rows} rows; every row needs a task")
        target = goal.target(tables.num_rows)
        names = sorted(tasks)
        quotas = task_shares(tasks, target, goal).rows
        return Plan(
            goal=goal,
            target=target,
            group_column="task",
            groups=pa.array(names, type=pa.string()),
            size_G=np.array([tasks[name] for name in names]),
            quota_G=np.array([quotas[name] for name in names]),
            needs_cut=True,
        )

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order the rows of each task by seeded hash."""
        return hash_order(plan, rows)

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the smallest hashes of each task; the score is the hash as a number in [0, 1)."""
        return decide_by_hash(plan, rows)
