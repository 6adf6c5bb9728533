"""Base of the methods that rank rows by a number of their images: those without one have a share, drawn.

    M_image, M_text = M in proportion to the rows with and without an image, by largest remainder
    kept            = the first M_image rows by (number, key), and the M_text rows of the smallest seeded hashes

The papers say nothing of rows of text alone, whose images have no number: a part of them as large as of the others
keeps the mix. The number is found by streaming sums over all rows (`RankedByPasses`) and kept by `rank`; every budget
is then 2 to 5 passes over small rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.apportion import apportion
from raycurate.selection.base import (
    Decisions,
    Goal,
    Plan,
    RowOrder,
    SelectionTables,
    decide_by_cut,
    order_word,
)
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.methods.by_score import number_column
from raycurate.selection.ranked import NO_IMAGE, Grouping


@dataclass(frozen=True, kw_only=True)
class ByImage(ABC):
    """A subclass gives `rank_features`, `highest_first` and the three steps of `RankedByPasses`."""

    needs: ClassVar[frozenset[str]] = frozenset({"ranking"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "cluster", "value"})
    rank_images: ClassVar[bool] = True
    rank_score: ClassVar[tuple[str, str] | None] = None
    rank_features: ClassVar[str]
    highest_first: ClassVar[bool]

    @property
    def rank_grouping(self) -> Grouping:
        """Which rows are added up together; all."""
        return "all"

    def rank_bytes_per_row(self, _dim: int) -> int:
        """Return nothing: rows are streamed."""
        return 0

    @abstractmethod
    def rank_sum(self, features_ND: NDArray[Any], length_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return what is added up over all rows with an image."""

    @abstractmethod
    def rank_fit(self, total: Mapping[str, NDArray[np.float64]], count: int) -> dict[str, NDArray[np.float64]]:
        """Return what the number of a row follows from."""

    @abstractmethod
    def rank_value(
        self, features_ND: NDArray[Any], length_N: NDArray[np.float64], fitted: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return the number of each row, [N]."""

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group of the rows with an image, one of those without.

        Raises:
            UserError: no table of both.
        """
        if tables.clusters is None or not tables.clusters.size_K.sum():
            raise UserError(f"none of the {tables.num_rows:,} rows has the features '{self.rank_features}'")
        sizes = tables.clusters.size_K.tolist()
        target = goal.target(tables.num_rows)
        return Plan(
            goal=goal,
            target=target,
            group_column="cluster",
            groups=pa.array(tables.clusters.cluster_K, pa.int64()),
            size_G=tables.clusters.size_K,
            quota_G=np.array(apportion(sizes, min(target, sum(sizes)), sizes).rows, dtype=np.int64),
            needs_cut=True,
        )

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order rows with an image by their number, the others by seeded hash."""
        key_N, value_N = key_array(rows["key"]), number_column(rows, "value")
        by_value_N = order_word(-value_N if self.highest_first else value_N)
        hash_N = key_hashes(key_N, seed=plan.goal.seed, purpose="draw")
        word_N = np.where(self._of_text(rows), hash_N, by_value_N)
        return RowOrder(group_N=plan.group_index(rows), word_N=word_N, key_N=key_N)

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows; the score is the number, NaN for a row of text alone."""
        score_N = number_column(rows, "value")
        order = self.order(plan, rows)
        made = decide_by_cut(plan, order, score_N, kept_reason="within_range", dropped_reason="outside_range")
        drawn_N = np.where(made.kept_N, "drawn", "not_drawn")
        reason_N = np.where(self._of_text(rows), drawn_N, made.reason_N)
        return Decisions(kept_N=made.kept_N, score_N=score_N, reason_N=reason_N)

    def _of_text(self, rows: pa.Table) -> NDArray[np.bool_]:
        return number_column(rows, "cluster") == NO_IMAGE
