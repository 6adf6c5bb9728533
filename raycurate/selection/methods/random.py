"""Uniform random selection: the rows with the smallest seeded hash of their key, exactly round(ratio N) of
them.

The baseline that every method must beat, over several seeds. A hash and not a generator's stream, so the draw
is the same for any sharding, order or number of workers, and a larger ratio with the same seed contains the
smaller. Cost: one hash a row and pass; 2 passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.base import Decisions, Goal, Plan, RowOrder, SelectionTables, decide_by_cut
from raycurate.selection.keys import key_array, key_hashes


@dataclass(frozen=True, kw_only=True)
class Random:
    """Selector `random`; it has no options."""

    needs: ClassVar[frozenset[str]] = frozenset({"samples"})
    columns: ClassVar[frozenset[str]] = frozenset({"key"})

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group of all rows."""
        target = goal.target(tables.num_rows)
        return Plan(
            goal=goal,
            target=target,
            group_column=None,
            groups=pa.array(["all"]),
            size_G=np.array([tables.num_rows]),
            quota_G=np.array([target]),
            needs_cut=True,
        )

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order by seeded hash."""
        return hash_order(plan, rows)

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the smallest hashes; the score is the hash as a number in [0, 1)."""
        return decide_by_hash(plan, rows)


def hash_order(plan: Plan, rows: pa.Table) -> RowOrder:
    """Order the rows of each group by the seeded hash of their key."""
    key_N = key_array(rows.column("key"))
    word_N = key_hashes(key_N, seed=plan.goal.seed, purpose="draw")
    return RowOrder(group_N=plan.group_index(rows), word_N=word_N, key_N=key_N)


def decide_by_hash(plan: Plan, rows: pa.Table) -> Decisions:
    """Keep the rows of each group with the smallest hashes; the score is the hash in [0, 1)."""
    order = hash_order(plan, rows)
    score_N: NDArray[np.float64] = order.word_N / 2.0**64
    return decide_by_cut(plan, order, score_N, kept_reason="drawn", dropped_reason="not_drawn")
