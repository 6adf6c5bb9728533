"""A plan over cells: of each task its share, of each of its clusters a part.

    n_t  = M N_t^power w_t / sum_u N_u^power w_u      shares of tasks (`shares.py`), at most what a task has
    n_tk = n_t N_tk / sum_k N_tk                      in proportion to the rows of the cell, unless a method says else

Whole rows are by largest remainder, and no cell gives more than it has: what it cannot give goes to the other cells of
the task by the same rule. Cost: a table of cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.apportion import apportion
from raycurate.selection.base import Goal, Plan, SelectionTables
from raycurate.selection.cells import CellTable
from raycurate.selection.shares import task_shares

Divide = Callable[[int, slice], Sequence[int]]
"""Divides rows among the cells of one task, which are a slice of the table."""


@dataclass(frozen=True, kw_only=True)
class CellPlan(Plan):
    """A plan whose groups are cells; `groups` names the task of each.

    Attributes:
        cells: the cells.
    """

    cells: CellTable

    def group_index(self, rows: pa.Table) -> NDArray[np.int64]:
        """Return the cell of each row, -1 for a row of none, int64 [N]."""
        return self.cells.index_of(rows)


def plan_cells(
    tables: SelectionTables, cells: CellTable, goal: Goal, divide: Divide | None = None, *, needs_cut: bool = False
) -> CellPlan:
    """Return the plan.

    Args:
        tables: with the rows of each task, which its share follows.
        cells: of the rows that can be kept.
        goal: how much.
        divide: of a task's rows; by size where there is none.
        needs_cut: whether a method orders the rows of a cell while it selects.
    """
    assert tables.tasks, "the caller looked"
    usable = cells.task_rows
    target = goal.target(tables.num_rows)
    wanted = task_shares(tables.tasks, min(target, sum(usable.values())), goal, usable=usable).rows
    quota_C = np.zeros(cells.size_C.size, dtype=np.int64)
    ends_T = np.searchsorted(cells.task_C, np.arange(len(cells.tasks) + 1))
    for task, start, end in zip(cells.tasks, ends_T[:-1].tolist(), ends_T[1:].tolist(), strict=True):
        own = slice(start, end)
        quota_C[own] = divide_by_size(cells, wanted[task], own) if divide is None else divide(wanted[task], own)
    return cell_plan(tables, cells, goal, quota_C, needs_cut=needs_cut)


def cell_plan(
    tables: SelectionTables,
    cells: CellTable,
    goal: Goal,
    quota_C: NDArray[np.int64] | Sequence[int],
    *,
    needs_cut: bool = False,
) -> CellPlan:
    """Return the plan of quotas that were found otherwise; the arguments are those of `plan_cells`."""
    return CellPlan(
        goal=goal,
        target=goal.target(tables.num_rows),
        group_column=None,
        groups=pa.array([cells.tasks[task] for task in cells.task_C.tolist()], pa.string()),
        size_G=cells.size_C,
        quota_G=np.asarray(quota_C, dtype=np.int64),
        needs_cut=needs_cut,
        cells=cells,
    )


def divide_by_size(cells: CellTable, target: int, own: slice) -> Sequence[int]:
    """Rows of each cell of one task, in proportion to what it has."""
    sizes = cells.size_C[own].tolist()
    return apportion(sizes, target, sizes).rows
