"""Base of the methods that put all rows in one order by walking on a graph of their neighbours.

The rows are ranked once (`ranked.RankedOnGraph`); for a ratio the first M = round(ratio * rows) of them are kept, in
one pass over the ranks.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.base import Decisions, Goal, Plan, SelectionTables
from raycurate.selection.methods.by_score import ByScore, Keep, number_column
from raycurate.selection.neighbours import EXACT_ROWS, Neighbours, bytes_per_row
from raycurate.selection.ranked import Grouping, Ordering


@dataclass(frozen=True, kw_only=True)
class OnGraph(ByScore):
    """A subclass gives `rank_features`, `rank_score` and `rank_on_graph`.

    Attributes:
        keep: the first rows of the order.
        neighbours: k of the graph.
        exact_rows: most rows for which the neighbours are exact.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ranking"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "rank"})
    rank_grouping: ClassVar[Grouping] = "all"

    keep: Keep = field(default="low", init=False)
    neighbours: int
    exact_rows: int = EXACT_ROWS

    @property
    @abstractmethod
    def rank_features(self) -> str:
        """Label of the features whose cosines make the graph."""

    @property
    @abstractmethod
    def rank_score(self) -> tuple[str, str] | None:
        """Label and column of the score at the start."""

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the bytes of the graph's search."""
        return bytes_per_row(dim, self.neighbours)

    @abstractmethod
    def rank_on_graph(self, score_N: NDArray[np.float64], graph: Neighbours) -> Ordering:
        """Order all rows."""

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group of all ranked rows, whose ranks are its cut."""
        return replace(super().plan(tables, goal), needs_cut=False)

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the place in the order, [N]."""
        return number_column(rows, "rank")

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows of the order."""
        rank_N = self.score(rows)
        kept_N = rank_N < plan.expected  # NaN is not
        reason_N = np.where(kept_N, "within_range", np.where(np.isnan(rank_N), "no_score", "outside_range"))
        return Decisions(kept_N=kept_N, score_N=rank_N, reason_N=reason_N)
