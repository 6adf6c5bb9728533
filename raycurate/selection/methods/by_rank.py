"""Base of the methods that put all rows in one order first: a ratio keeps a prefix of it.

The rows are ranked once (`ranked.py`); for a ratio the first M = round(ratio * rows) of them are kept, in one pass over
the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.base import Decisions, Goal, Plan, SelectionTables
from raycurate.selection.methods.by_score import ByScore, Keep, number_column
from raycurate.selection.ranked import Grouping


@dataclass(frozen=True, kw_only=True)
class ByRank(ByScore):
    """A subclass says how its rows are ranked.

    Attributes:
        keep: the first rows of the order.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ranking"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "rank"})
    rank_grouping: ClassVar[Grouping] = "all"

    keep: Keep = field(default="low", init=False)

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
