"""A method over the rows that remain where some may not be kept: marked as copies, or as telling of a test set.

    N rows, of which R remain;  M = round(ratio N) as ever;  the method plans M of R rows, from tables of those alone

So a budget is exact, shares of tasks and clusters follow the rows that can be chosen, and more than remain is an error.
The orders of `rank` are nested, so that the first rows of one that remain are the first rows of the order without the
others; a method that would compare ranks with a quota has its cuts found by counting instead (`threshold.py`), one
group at a time. What `rank` measured stays as it was: an order, a density or a redundancy looked at all rows.

Cost: one more pass to count, and one cut. A selector that counts rows by itself counts those that remain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import (
    NOT_USABLE,
    ClusterTable,
    Decisions,
    EachBlock,
    Goal,
    Plan,
    PlansByCounting,
    RowOrder,
    SelectionTables,
    Selector,
    decide_by_cut,
    own_order,
)
from raycurate.selection.cells import CellCounts, CellTable
from raycurate.selection.local import with_cuts
from raycurate.selection.methods.by_score import ByScore

_REASONS = {True: ("within_range", "outside_range"), False: ("within_quota", "over_quota")}
"""Whether the method cuts a range of scores -> the reasons of a kept and of a dropped row."""


class FewRemain(UserError):
    """More rows are asked for than remain."""


@dataclass(frozen=True, kw_only=True)
class RemainingPlan(Plan):
    """The plan of a method that compares ranks, to be cut by counting.

    Attributes:
        own: the method's plan.
    """

    own: Plan

    def group_index(self, rows: pa.Table) -> NDArray[np.int64]:
        """Return the group of each row in the method's plan, int64 [N]."""
        return self.own.group_index(rows)


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """A selector whose blocks have only rows that remain; itself a selector.

    Attributes:
        method: the selector.
    """

    method: Selector

    @property
    def needs(self) -> frozenset[str]:
        """What the method needs."""
        return self.method.needs

    @property
    def columns(self) -> frozenset[str]:
        """What the method reads."""
        return self.method.columns | {"key"}

    @property
    def has_task_shares(self) -> bool:
        """Whether the method has."""
        return bool(getattr(self.method, "has_task_shares", False))

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """Return the method's plan; one that needs no cut gets one."""
        own = self.method.plan(tables, goal)
        if own.needs_cut:
            return own
        values = {name: getattr(own, name) for name in Plan.__dataclass_fields__}
        return RemainingPlan(**{**values, "needs_cut": True}, own=own)

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
        """Return the plan with its cuts."""
        if isinstance(self.method, PlansByCounting):
            return self.method.plan_by_counting(tables, goal, each_block)
        plan = self.plan(tables, goal)
        return with_cuts(plan, lambda rows: self.order(plan, rows), each_block)

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Give each row's place in its group."""
        if isinstance(plan, RemainingPlan):
            return own_order(self.method, plan.own, rows)
        return self.method.order(plan, rows)

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows of each group; the score is the method's."""
        made = self.method.decide(plan.own if isinstance(plan, RemainingPlan) else plan, rows)
        if not isinstance(plan, RemainingPlan):
            return made
        kept, dropped = _REASONS[isinstance(self.method, ByScore)]
        cut = decide_by_cut(plan, self.order(plan, rows), made.score_N, kept_reason=kept, dropped_reason=dropped)
        reason_N = np.where(np.isin(made.reason_N, NOT_USABLE), made.reason_N, cut.reason_N)
        return Decisions(kept_N=cut.kept_N, score_N=made.score_N, reason_N=reason_N)


def remaining_tables(tables: SelectionTables, tasks: Mapping[str, int], cells: CellCounts) -> SelectionTables:
    """The tables of the rows that remain.

    Args:
        tables: of all rows.
        tasks: rows of each task that remain.
        cells: those that are in a cluster.
    """
    clusters = tables.clusters
    if clusters is not None:
        of: dict[int, int] = {}
        for (_, cluster), rows in cells.items():
            of[cluster] = of.get(cluster, 0) + rows
        clusters = resized(clusters, of)
    assert tables.tasks is not None, "the stage has the tasks of all rows"
    return replace(
        tables,
        num_rows=sum(tasks.values()),
        tasks={task: tasks.get(task, 0) for task in tables.tasks},
        clusters=clusters,
        cells=None if tables.cells is None else CellTable.of(cells),
    )


def remaining_goal(goal: Goal, num_rows: int, remaining: int, kept: int = 0) -> Goal:
    """The goal that keeps as many of the rows that remain as `goal` keeps of all, less those that are kept already.

    Raises:
        FewRemain: more than remain.
    """
    target = goal.target(num_rows) - kept
    if target > remaining:
        left, marked = remaining + kept, num_rows - remaining - kept
        lower = f"Lower the ratio to {_largest_ratio(num_rows, remaining, kept)} or less, or leave" if remaining else ""
        raise FewRemain(
            f"ratio {goal.ratio:g} of {num_rows:,} rows keeps {goal.target(num_rows):,}, and {marked:,} are marked: "
            f"{left:,} remain. {lower or 'Leave'} marks aside (--ignore-marks), or loosen the condition (--where)"
        )
    return goal if remaining == num_rows else replace(goal, ratio=target / remaining if target else goal.ratio)


def _largest_ratio(num_rows: int, remaining: int, kept: int) -> str:
    """A ratio of few digits that keeps at most what remains, and nearly all of it; more than is kept already."""
    shown = (f"{(remaining + kept) / num_rows:.{digits}g}" for digits in range(3, 18))
    return next(text for text in shown if kept < round(float(text) * num_rows) <= remaining + kept)


def resized(table: ClusterTable, size: Mapping[int, int]) -> ClusterTable:
    """The table with other sizes; a cluster that has none is of size 0."""
    sizes = np.array([size.get(cluster, 0) for cluster in table.cluster_K.tolist()], dtype=np.int64)
    return replace(table, size_K=sizes)
