"""Balanced: of each task its share, of each of its clusters a fair part, in there the rows that stand for the rest.

    cell    = the rows of one task in one cluster
    n_t     = M N_t^power w_t / sum_u N_u^power w_u           shares of tasks (`shares.py`), at most what a task has
    n_tk    = n_t N_tk / sum_k N_tk                           within `size`: in proportion to the rows of the cell
    n_tk    = n_t P_k / sum_k P_k,  P = softmax(S / (tau D))  within `coincide`: COINCIDE's weights of the clusters
    kept    = the first n_tk rows of the greedy MMD order of the cell (`mmd.py`)

Whole rows are by largest remainder, and no cell gives more than it has: what it cannot give goes to the other cells of
the task by the same rule. The order of a cell is that of its own rows: the places that they have in the order of the
whole cluster would serve rows of other tasks.

For a mean over rows a proportional stratified draw is never worse in expectation than a simple one, and finer strata
help as long as they say something; no softmax that does not look at sizes has such a property. A task of one cluster, a
cluster of one task and tasks without a name of their own need nothing special. Rows without features are in no cell;
their task's share goes by all of its rows and is met by the others.

Cost: the features once to their cells and n^2 D FLOP for a cell of n rows, at most what the ranking of the clusters
takes; then the arithmetic of a table of cells and one comparison a row. Source: this engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.apportion import apportion
from raycurate.selection.base import Decisions, Goal, Plan, RowOrder, SelectionTables, order_word
from raycurate.selection.budget import cluster_scores, softmax
from raycurate.selection.cell_plan import plan_cells
from raycurate.selection.cells import CellTable
from raycurate.selection.keys import key_array
from raycurate.selection.methods.coincide import Coincide, decide_by_rank

TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """Selector `balanced`.

    Attributes:
        within: how a task's rows are divided among its clusters.
        temperature: tau of `coincide`; 0.1 where it is not given.
        has_task_shares: it follows the power and the weights of tasks.
        own_task_power: the power where none is asked for. Square-root shares measured better than proportional ones
            where all tasks count alike (`jobs/RESULTS.md`); what stands closest to the data is power 1.
    """

    has_task_shares: ClassVar[bool] = True
    own_task_power: ClassVar[float] = 0.5
    columns: ClassVar[frozenset[str]] = frozenset({"key", "task", "cluster", "rank"})

    within: Literal["size", "coincide"] = "size"
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is None:
            return
        if self.within != "coincide":
            raise UserError(
                f"temperature {self.temperature} is of the budget of COINCIDE: say `--method coincide`, or "
                "within=coincide for that budget inside of each task's share"
            )
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature is {self.temperature}; it must be a positive number (COINCIDE uses 0.1)")

    @property
    def needs(self) -> frozenset[str]:
        """The ranking of cells; for COINCIDE's weights also that of clusters, which has their numbers."""
        return frozenset({"ranking/by-task"} | ({"ranking"} if self.within == "coincide" else set()))

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group a cell.

        Raises:
            UserError: no tables of tasks and cells.
        """
        if tables.cells is None or not tables.tasks:
            raise UserError("method 'balanced' needs the tables of tasks and cells; run the stages up to `rank` first")
        cells = tables.cells
        score_C = self._scores(tables, cells)
        if score_C is None:
            return plan_cells(tables, cells, goal)

        def by_score(wanted: int, own: slice) -> list[int]:
            return self._divide(wanted, cells.size_C[own], score_C[own])

        return plan_cells(tables, cells, goal, by_score)

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order the rows of each cell by their rank."""
        rank_N = rows["rank"].cast(pa.float64()).to_numpy()
        return RowOrder(group_N=plan.group_index(rows), word_N=order_word(rank_N), key_N=key_array(rows["key"]))

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows of each cell; the score is the rank in it."""
        return decide_by_rank(plan, rows)

    def _scores(self, tables: SelectionTables, cells: CellTable) -> NDArray[np.float64] | None:
        """COINCIDE's S / D of each cell's cluster, float64 [C]; None where sizes count."""
        if self.within == "size":
            return None
        if tables.clusters is None:
            raise UserError("method 'balanced' within 'coincide' needs a cluster table; run `rank` first")
        score_K = cluster_scores(*Coincide().numbers(tables.clusters))
        return score_K[np.searchsorted(tables.clusters.cluster_K, cells.cluster_C)]

    def _divide(self, target: int, size_C: NDArray[np.int64], score_C: NDArray[np.float64]) -> list[int]:
        """Rows of each cell of one task by COINCIDE's weights."""
        quota, left = np.zeros(size_C.size, dtype=np.int64), target
        while left:  # a weight may be too small for a float until the cells above it are full
            roomy = np.flatnonzero(quota < size_C)
            weight = softmax(score_C[roomy], self.temperature or TEMPERATURE)
            roomy, weight = roomy[weight > 0], weight[weight > 0]
            room = [int(value) for value in (size_C - quota)[roomy]]
            taken = apportion(weight.tolist(), min(left, sum(room)), room).rows
            quota[roomy] += np.array(taken, dtype=np.int64)
            left -= sum(taken)
        return [int(value) for value in quota]
