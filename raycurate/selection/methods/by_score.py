"""Selection by one number a row: the lowest, the highest, or the middle of the ranking.

    rank the N rows by (score, key); keep M = round(ratio * rows) of them:
    low: ranks 0 .. M - 1        high: the same by descending score
    middle: ranks s .. s + M - 1 with s = (N - M) // 2, the window centred on the median rank

The base of every method that is a number a row: a method says which column it reads (`score`), the rest is here,
and a user's own method needs no more. Ranks are never computed for all rows: the one or two boundaries are found by
streaming counts (`threshold.py`), exact for any ties. Rows without a score (NaN) take no part: what cannot be scored
must not be taken for easy. Cost: 3 to 5 streaming passes over (key, score), one of them to count the rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import (
    Decisions,
    Goal,
    Plan,
    RowOrder,
    SelectionTables,
    decide_by_cut,
    order_word,
)
from raycurate.selection.keys import key_array

Keep = Literal["low", "middle", "high"]


@dataclass(frozen=True, kw_only=True)
class ByScore(ABC):
    """Base of the selectors by score. A subclass gives `needs`, `columns` and `score`.

    Attributes:
        needs: nouns that it reads, as in `Selector`.
        columns: columns that `score` and `takes_part` read, and the key.
        keep: which part of the ranking stays.
    """

    needs: ClassVar[frozenset[str]]
    columns: ClassVar[frozenset[str]]

    keep: Keep = "low"

    @abstractmethod
    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the number that rows are ranked by, [N]; NaN for a row that takes no part."""

    def takes_part(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Say which rows can be kept, bool [N]: those with a score."""
        return ~np.isnan(self.score(rows))

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group of all usable rows.

        Raises:
            UserError: no row has a score.
        """
        usable = tables.num_rows if tables.num_usable is None else tables.num_usable
        if not usable:
            raise UserError(f"none of the {tables.num_rows} rows has a score; the quarantine folder says why")
        target = goal.target(tables.num_rows)
        quota = min(target, usable)
        return Plan(
            goal=goal,
            target=target,
            group_column=None,
            groups=pa.array(["all"]),
            size_G=np.array([usable]),
            quota_G=np.array([quota]),
            needs_cut=True,
            skip_G=np.array([(usable - quota) // 2]) if self.keep == "middle" else None,
        )

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order by score, ties by key."""
        score_N = self.score(rows)
        return RowOrder(
            group_N=np.where(self.takes_part(rows), plan.group_index(rows), -1),
            word_N=order_word(-score_N if self.keep == "high" else score_N),
            key_N=key_array(rows.column("key")),
        )

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the rows between the boundaries; the score is the method's own number."""
        made = decide_by_cut(
            plan, self.order(plan, rows), self.score(rows), kept_reason="within_range", dropped_reason="outside_range"
        )
        reason_N = np.where(self.takes_part(rows), made.reason_N, "no_score")
        return Decisions(kept_N=made.kept_N, score_N=made.score_N, reason_N=reason_N)


def number_column(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a numeric column as float64 [N], null as NaN."""
    values: NDArray[np.float64] = rows.column(name).cast(pa.float64()).to_numpy()
    return values
