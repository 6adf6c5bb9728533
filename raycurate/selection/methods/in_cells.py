"""Selection inside cells by one number a row: of each task its share, of each of its clusters the first rows.

The base of methods whose scores say something only beside rows of the same kind. The cells are counted in one pass over
the rows that take part, the quotas are by size (`cell_plan.py`), and the last row of each cell is found by streaming
counts (`threshold.py`), exact for any ties. A subclass says which column its number comes from and which rows take
part. Cost: one counting pass, 2 to 5 passes of the cut, one to decide, over small rows; memory: the table of cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import Decisions, EachBlock, Goal, Plan, RowOrder, SelectionTables, decide_by_cut
from raycurate.selection.cell_plan import plan_cells
from raycurate.selection.cells import CellTable, add_counts, count_cells
from raycurate.selection.keys import key_array
from raycurate.selection.local import with_cuts


@dataclass(frozen=True, kw_only=True)
class InCells(ABC):
    """Base of the selectors by cell. A subclass gives `needs` (with `clusters`), `columns`, `score` and `words`.

    Attributes:
        needs: nouns that it reads, as in `Selector`.
        columns: columns that its functions read, and key, task and cluster.
        has_task_shares: it follows the power and the weights of tasks.
    """

    has_task_shares: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]]
    columns: ClassVar[frozenset[str]]

    @abstractmethod
    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the number that is told of each row, [N]."""

    @abstractmethod
    def words(self, plan: Plan, rows: pa.Table) -> NDArray[np.uint64]:
        """Return the order word of each row, the first rows of a cell stay, [N]."""

    @abstractmethod
    def takes_part(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Say which rows can be kept, bool [N]; those of no cluster cannot be."""

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
        """Count the cells, divide the target among them and find their cuts.

        Raises:
            UserError: no row takes part.
        """
        cells = CellTable.of(add_counts(each_block(self._count)))
        plan = self.plan(replace(tables, cells=cells), goal)
        return with_cuts(plan, lambda rows: self.order(plan, rows), each_block)

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group a cell; the cells of one task are its clusters.

        Raises:
            UserError: no table of tasks, or no row in any cell.
        """
        cells = tables.cells
        if cells is None and tables.clusters is not None and tables.tasks and len(tables.tasks) == 1:
            (task,) = tables.tasks
            sizes = zip(tables.clusters.cluster_K.tolist(), tables.clusters.size_K.tolist(), strict=True)
            cells = CellTable.of({(task, cluster): size for cluster, size in sizes})
        if cells is None or not tables.tasks:
            raise UserError(
                "a method by cells needs the task of every row and clusters; run the stages up to `cluster`"
            )
        if not cells.size_C.size:
            raise UserError(f"none of the {tables.num_rows:,} rows has a cluster and a score; the quarantine says why")
        return plan_cells(tables, cells, goal, needs_cut=True)

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order the rows of each cell by their words, ties by key."""
        return RowOrder(
            group_N=np.where(self.takes_part(rows), plan.group_index(rows), -1),
            word_N=self.words(plan, rows),
            key_N=key_array(rows["key"]),
        )

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows of each cell."""
        order = self.order(plan, rows)
        made = decide_by_cut(plan, order, self.score(rows), kept_reason="within_quota", dropped_reason="over_quota")
        reason_N = np.where(self.takes_part(rows), made.reason_N, self.why_not(rows))
        return Decisions(kept_N=made.kept_N, score_N=made.score_N, reason_N=reason_N)

    def why_not(self, rows: pa.Table) -> NDArray[np.str_]:
        """Return the reason of each row that takes no part, [N]."""
        return np.full(rows.num_rows, "no_score")

    def _count(self, rows: pa.Table) -> list[tuple[str, int, int]]:
        return count_cells(rows.filter(pa.array(self.takes_part(rows))))
