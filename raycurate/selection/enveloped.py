"""Any method inside an envelope: task budgets within bounds, a drawn part, and the method's own rows for the rest.

    1  the method makes its plan alone; count c_t, the rows that it keeps of each task, and those that it can keep
    2  budgets b_t and drawn parts r_t of all tasks                                      `envelope.py`
    3  the r_t rows of each task with the smallest hash(seed, key): the draw of `stratified`, nested over ratios
    4  for each task the method plans for b_t - r_t of the rows that are left of that task, as if there were no others
    5  the cuts of all those plans are found together, one group for each task and group of its plan

Step 4 is all that is asked of a method: `plan` with the tables of one task, and an order of the rows in each group
(its `order`, or where it needs no cut the score that it compares, lower first). A task that keeps its c_t rows and of
which none is drawn keeps the method's very rows, so without bounds and draw the result is the method's. Rows that the
method cannot keep take no part, in the draw neither. Where the method's options leave fewer rows of a task than its
budget, more are drawn.

Cost: the method's passes alone, then a pass to count, a cut of the draw, a pass that counts cells where the method
reads clusters, and one cut: 4 to 12 passes over small rows. Memory: the tables of all cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import (
    NOT_USABLE,
    ClusterTable,
    Decisions,
    EachBlock,
    Goal,
    Plan,
    RowOrder,
    SelectionTables,
    Selector,
    decide_by_cut,
    own_order,
)
from raycurate.selection.cells import CellCounts, CellTable, add_counts, count_cells
from raycurate.selection.envelope import Envelope, TaskBudget, task_budgets
from raycurate.selection.keys import key_array
from raycurate.selection.local import make_plan, with_cuts
from raycurate.selection.methods.random import hash_order
from raycurate.selection.remaining import resized
from raycurate.selection.shares import task_shares


@dataclass(frozen=True, kw_only=True)
class EnvelopePlan(Plan):
    """One group a task, of the rows that can be kept.

    Attributes:
        budgets: of each group.
        alone: the plan of the method by itself.
        draw: one group a task: the drawn rows.
        plans: the method's plan of each task; None where it keeps what it keeps alone, or none.
        first_T: position of each task's first group in `inside`, int64 [T].
        inside: the groups of all those plans.
    """

    budgets: tuple[TaskBudget, ...]
    alone: Plan
    draw: Plan
    plans: tuple[Plan | None, ...]
    first_T: NDArray[np.int64]
    inside: Plan


@dataclass(frozen=True, kw_only=True)
class Enveloped:
    """A selector inside an envelope; itself a selector.

    Attributes:
        method: the selector.
        envelope: the bounds.
    """

    method: Selector
    envelope: Envelope

    @property
    def needs(self) -> frozenset[str]:
        """What the method needs."""
        return self.method.needs

    @property
    def columns(self) -> frozenset[str]:
        """What the method reads, and the task."""
        return self.method.columns | {"key", "task"}

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """Return the plan of the method alone: bounds need counts of the rows, see `plan_by_counting`."""
        return self.method.plan(tables, goal)

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> EnvelopePlan:
        """Return the whole plan.

        Raises:
            UserError: no task table, or what the method raises, with the task.
        """
        if not tables.tasks:
            raise UserError("the envelope has no table of tasks; every row needs a task")
        alone = make_plan(self.method, tables, goal, each_block)
        usable, kept = _add(each_block(partial(_count_alone, self.method, alone)))
        shares = task_shares(tables.tasks, sum(kept.values()), goal, usable=usable).share
        budgets = task_budgets(self.envelope, shares=shares, alone=kept, usable=usable)
        while True:
            draw = _draw_plan(goal, budgets)
            draw = with_cuts(draw, partial(_order_to_draw, self.method, alone, draw), each_block)
            counts: CellCounts = {}
            if tables.clusters is not None or tables.cells is not None:
                counts = add_counts(each_block(partial(_count_left, self.method, alone, draw)))
            plans = self._plans_of_tasks(budgets, tables, goal, counts)
            short = [_short(budget, plan) for budget, plan in zip(budgets, plans, strict=True)]
            if not any(short):
                break
            budgets = [replace(b, drawn=b.drawn + missing) for b, missing in zip(budgets, short, strict=True)]
        inside, first_T = _joined(goal, budgets, plans)
        made = EnvelopePlan(
            goal=goal,
            target=alone.target,
            group_column="task",
            groups=pa.array([budget.task for budget in budgets], pa.string()),
            size_G=np.array([budget.usable for budget in budgets], dtype=np.int64),
            quota_G=np.array([budget.rows for budget in budgets], dtype=np.int64),
            budgets=tuple(budgets),
            alone=alone,
            draw=draw,
            plans=plans,
            first_T=first_T,
            inside=inside,
        )
        return replace(made, inside=with_cuts(inside, partial(self.order, made), each_block))

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order the rows that are not drawn within the groups of their task's plan."""
        assert isinstance(plan, EnvelopePlan)
        usable_N, _ = _alone(self.method, plan.alone, rows)
        return self._order_left(plan, rows, usable_N & ~_drawn(plan.draw, rows, usable_N))

    def _order_left(self, plan: EnvelopePlan, rows: pa.Table, left_N: NDArray[np.bool_]) -> RowOrder:
        task_N = plan.group_index(rows)
        group_N = np.full(rows.num_rows, -1, dtype=np.int64)
        word_N = np.zeros(rows.num_rows, dtype=np.uint64)
        for task in np.unique(task_N[left_N]).tolist():
            own = plan.plans[task]
            if own is not None:
                at = np.flatnonzero(left_N & (task_N == task))
                made = own_order(self.method, own, rows.take(pa.array(at)))
                group_N[at] = np.where(made.group_N >= 0, made.group_N + plan.first_T[task], -1)
                word_N[at] = made.word_N
        return RowOrder(group_N=group_N, word_N=word_N, key_N=key_array(rows["key"]))

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the drawn rows and the method's; the score is the one that the method gives when it is alone."""
        assert isinstance(plan, EnvelopePlan)
        usable_N, own = _alone(self.method, plan.alone, rows)
        drawn_N = _drawn(plan.draw, rows, usable_N)
        order = self._order_left(plan, rows, usable_N & ~drawn_N)
        chosen_N = decide_by_cut(plan.inside, order, own.score_N, kept_reason="", dropped_reason="").kept_N
        untouched_T = np.array([budget.is_untouched for budget in plan.budgets], dtype=bool)
        same_N = untouched_T[np.maximum(plan.group_index(rows), 0)] & usable_N
        kept_N = np.where(same_N, own.kept_N, drawn_N | chosen_N)
        other_N = np.where(chosen_N, "within_budget", "over_budget")
        reason_N = np.where(same_N | ~usable_N, own.reason_N, np.where(drawn_N, "drawn", other_N))
        return Decisions(kept_N=kept_N, score_N=own.score_N, reason_N=reason_N)

    def _plans_of_tasks(
        self, budgets: Sequence[TaskBudget], tables: SelectionTables, goal: Goal, counts: CellCounts
    ) -> tuple[Plan | None, ...]:
        by_task: dict[str, dict[int, int]] = {}
        for (task, cluster), rows in counts.items():
            by_task.setdefault(task, {})[cluster] = rows
        return tuple(self._plan_of_task(budget, tables, goal, by_task.get(budget.task, {})) for budget in budgets)

    def _plan_of_task(
        self, budget: TaskBudget, tables: SelectionTables, goal: Goal, clusters: Mapping[int, int]
    ) -> Plan | None:
        """The method's plan for the rows of one task that are not drawn."""
        left, wanted = budget.usable - budget.drawn, budget.rows - budget.drawn
        if wanted == 0 or budget.is_untouched:
            return None
        own = SelectionTables(
            num_rows=left,
            tasks={budget.task: left},
            clusters=None if tables.clusters is None else _of_task(tables.clusters, clusters),
            cells=None if tables.cells is None else CellTable.of({(budget.task, c): n for c, n in clusters.items()}),
            num_usable=left,
        )
        try:
            return self.method.plan(own, Goal(ratio=wanted / left, seed=goal.seed))
        except UserError as error:
            raise UserError(
                f"of task '{budget.task}' the envelope asks the method for {wanted:,} rows of {left:,}: {error}"
            ) from error


def _of_task(table: ClusterTable, size: Mapping[int, int]) -> ClusterTable:
    """The table of the clusters that a task has rows in, with the numbers of those rows."""
    sized = resized(table, size)
    places = np.flatnonzero(sized.size_K)
    return ClusterTable(
        cluster_K=sized.cluster_K[places],
        size_K=sized.size_K[places],
        transferability={name: values[places] for name, values in table.transferability.items()},
        density={name: values[places] for name, values in table.density.items()},
    )


def _alone(method: Selector, plan: Plan, rows: pa.Table) -> tuple[NDArray[np.bool_], Decisions]:
    """Which rows the method can keep, bool [N], and what it decides by itself."""
    made = method.decide(plan, rows)
    if plan.needs_cut:
        return method.order(plan, rows).group_N >= 0, made
    return ~np.isin(made.reason_N, NOT_USABLE), made


def _count_alone(method: Selector, plan: Plan, rows: pa.Table) -> tuple[dict[str, int], dict[str, int]]:
    usable_N, made = _alone(method, plan, rows)
    return _by_task(rows, usable_N), _by_task(rows, made.kept_N)


def _by_task(rows: pa.Table, some_N: NDArray[np.bool_]) -> dict[str, int]:
    counted = pc.value_counts(rows["task"].filter(pa.array(some_N)))
    return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}


def _add(parts: Iterable[tuple[dict[str, int], dict[str, int]]]) -> tuple[Counter[str], Counter[str]]:
    usable: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for some_usable, some_kept in parts:
        usable.update(some_usable)
        kept.update(some_kept)
    return usable, kept


def _draw_plan(goal: Goal, budgets: Sequence[TaskBudget]) -> Plan:
    quota_T = np.array([budget.drawn for budget in budgets], dtype=np.int64)
    return Plan(
        goal=goal,
        target=int(quota_T.sum()),
        group_column="task",
        groups=pa.array([budget.task for budget in budgets], pa.string()),
        size_G=np.array([budget.usable for budget in budgets], dtype=np.int64),
        quota_G=quota_T,
        needs_cut=True,
    )


def _order_to_draw(method: Selector, alone: Plan, draw: Plan, rows: pa.Table) -> RowOrder:
    return _hash_order(draw, rows, _alone(method, alone, rows)[0])


def _hash_order(draw: Plan, rows: pa.Table, usable_N: NDArray[np.bool_]) -> RowOrder:
    """Usable rows by task in the order of their hashes."""
    order = hash_order(draw, rows)
    return replace(order, group_N=np.where(usable_N, order.group_N, -1))


def _drawn(draw: Plan, rows: pa.Table, usable_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows are drawn, bool [N]."""
    order = _hash_order(draw, rows, usable_N)
    return decide_by_cut(draw, order, np.zeros(rows.num_rows), kept_reason="", dropped_reason="").kept_N


def _count_left(method: Selector, alone: Plan, draw: Plan, rows: pa.Table) -> list[tuple[str, int, int]]:
    """Rows by task and cluster that the method can keep and that are not drawn."""
    usable_N, _ = _alone(method, alone, rows)
    return count_cells(rows.filter(pa.array(usable_N & ~_drawn(draw, rows, usable_N))))


def _short(budget: TaskBudget, plan: Plan | None) -> int:
    """Rows of a task that its plan lacks."""
    return 0 if plan is None else budget.rows - budget.drawn - plan.expected


def _joined(goal: Goal, budgets: Sequence[TaskBudget], plans: Sequence[Plan | None]) -> tuple[Plan, NDArray[np.int64]]:
    """One plan of the groups of all tasks' plans, and where each task's groups begin."""
    sizes, quotas, skips, names, starts = [], [], [], [], []
    groups = 0
    for budget, plan in zip(budgets, plans, strict=True):
        starts.append(groups)
        if plan is None:
            continue
        count = plan.size_G.shape[0]
        sizes.append(plan.size_G)
        quotas.append(plan.quota_G)
        skips.append(np.zeros(count, dtype=np.int64) if plan.skip_G is None else plan.skip_G)
        names += [budget.task] * count
        groups += count
    none = [np.zeros(0, dtype=np.int64)]
    quota_G, skip_G = np.concatenate(none + quotas), np.concatenate(none + skips)
    inside = Plan(
        goal=goal,
        target=int(quota_G.sum()),
        group_column=None,
        groups=pa.array(names, pa.string()),
        size_G=np.concatenate(none + sizes),
        quota_G=quota_G,
        skip_G=skip_G if skip_G.any() else None,
        needs_cut=True,
    )
    return inside, np.array(starts, dtype=np.int64)
