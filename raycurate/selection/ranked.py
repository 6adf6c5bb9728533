"""Methods that must look at a whole group of rows before any budget: what they are given and what they give.

A `Ranked` method orders the rows of one group at once: of one cluster, or of the whole dataset. A stage brings the
group's rows to one task, calls `rank_group`, and keeps the rank and the value of each row, so that every ratio is a
prefix of one order and costs a pass over small rows. Methods that group `all` rows hold the whole dataset's features
in one task; they say in their own file what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.density import Density
from raycurate.selection.keys import Keys

Grouping = Literal["cluster", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRows:
    """The rows of one group, sorted by key.

    Attributes:
        features_ND: unit rows, float16 as stored.
        keys_N: keys, bytes [N].
        similarity_N: cosine to the centroid of the cluster, float64 [N]; NaN where rows are not grouped by cluster.
        score_N: the score named by `rank_score`, float64 [N], finite; NaN where there is none.
    """

    features_ND: NDArray[Any]
    keys_N: Keys
    similarity_N: NDArray[np.float64]
    score_N: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordering:
    """The order of a group.

    Attributes:
        rank_N: place of each row, 0 for the first one to keep, int64 [N].
        value_N: the number behind it, float64 [N].
        density: kernel sums, where the method has them.
    """

    rank_N: NDArray[np.int64]
    value_N: NDArray[np.float64]
    density: Density | None = None


@runtime_checkable
class Ranked(Protocol):
    """What a selector has besides, if its rows are ranked by group first.

    Attributes:
        rank_grouping: which rows `rank_group` sees together.
        rank_features: label of the features that it reads, where rows are not grouped by cluster.
        rank_score: (label, column) of the `row_scores` that it reads, or None.
        rank_bytes_per_row: memory that `rank_group` takes for a row of so many dimensions.
    """

    @property
    def rank_grouping(self) -> Grouping: ...

    @property
    def rank_features(self) -> str: ...

    @property
    def rank_score(self) -> tuple[str, str] | None: ...

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the peak memory of `rank_group` over the number of its rows, in bytes."""
        ...

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Order the rows of one group; the same for any order of rows, blocks and workers."""
        ...


def ranks_of(order_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each row from the rows in order, int64 [N]."""
    rank_N = np.empty(order_N.shape[0], dtype=np.int64)
    rank_N[order_N] = np.arange(order_N.shape[0])
    return rank_N
