"""Methods that must look at a whole group of rows before any budget: what they are given and what they give.

A `Ranked` method orders the rows of one group at once: of one cluster, of one task in it, or of the whole dataset.
Every ratio is then a prefix of one order and costs a pass over small rows. A stage keeps the rank and the value of each
row. There are these ways to an order:

- `RankedInGroups`: the group's rows are brought to one task, which calls `rank_group`.
- `RankedInTasks`: the rows of a task of the dataset are brought to one task, clustered there, and each cluster is a
  group. Rows whose features are zero, as those of an image are where there is none, are the cluster `NO_IMAGE`.
- `RankedByTargets`: many tasks compare the rows with the validation rows, and one task orders all rows with
  `rank_by_targets`; it holds no features.
- `RankedOnGraph`: the neighbours of all rows are searched by many tasks, and one task walks on the graph with
  `rank_on_graph`; it holds no features.
- `RankedByPasses`: what is added up over the rows of a group says the value of each of them. Rows stay where they are
  and are read twice; a group is of any size. They get a value and no rank.

Methods that order `all` rows say in their own file what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.density import Density
from raycurate.selection.keys import Keys
from raycurate.selection.neighbours import Neighbours

Grouping = Literal["cluster", "cell", "task", "all"]
"""A cell is the rows of one task in one cluster; the rows of a task may be clustered by themselves first."""
NO_IMAGE = 0
"""The cluster of rows without an image, of all tasks, where rows are grouped by what their images show."""


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
        rank_grouping: which rows are ordered together.
        rank_features: label of the features that it reads, where rows are not grouped by cluster.
        rank_score: (label, column) of the `row_scores` that it reads, or None.
        rank_bytes_per_row: memory that a task takes for a row of so many dimensions.

    One whose ranking does not depend on all of its options names those that it depends on in `rank_options`. One that
    has an option `ratio` is ranked for each ratio by itself, under a label of its own.
    """

    @property
    def rank_grouping(self) -> Grouping: ...

    @property
    def rank_features(self) -> str: ...

    @property
    def rank_score(self) -> tuple[str, str] | None: ...

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the peak memory of a task over the number of its rows, in bytes."""
        ...


@runtime_checkable
class ScoredFromColumns(Protocol):
    """What a ranked method has besides, if the score that it starts from is made of several columns.

    Attributes:
        rank_columns: columns of the scores that `rank_score` names.
    """

    @property
    def rank_columns(self) -> tuple[str, ...]: ...

    def rank_score_of(self, scores: pa.Table) -> NDArray[np.float64]:
        """Return the score of each row, [N], NaN for one that takes no part."""
        ...


@runtime_checkable
class RankedInGroups(Ranked, Protocol):
    """A method that needs the features of a group's rows in one place."""

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Order the rows of one group; the same for any order of rows, blocks and workers."""
        ...


@runtime_checkable
class RankedInTasks(RankedInGroups, Protocol):
    """A method whose groups are clusters of the rows of one task; its grouping is `task`."""

    def rank_clusters(self, rows: int) -> int:
        """Return the number of clusters of so many rows, 1 at least, and no fewer for more rows."""
        ...


@runtime_checkable
class RankedOnGraph(Ranked, Protocol):
    """A method that orders all rows by a graph of their neighbours; its grouping is `all`.

    Attributes:
        neighbours: k of the graph.
        exact_rows: most rows for which the neighbours are exact.
    """

    @property
    def neighbours(self) -> int: ...

    @property
    def exact_rows(self) -> int: ...

    def rank_on_graph(self, score_N: NDArray[np.float64], graph: Neighbours) -> Ordering:
        """Order rows that are sorted by key, from the score named by `rank_score` and their neighbours."""
        ...


@runtime_checkable
class RankedByPasses(Ranked, Protocol):
    """A method whose number of a row follows from sums over its group; its grouping is `task` or `all`.

    Rows come as unit features and the lengths that these had, 1 where none are kept.

    Attributes:
        rank_images: rows whose features are zero have no image: they add nothing, and are the cluster `NO_IMAGE`.
    """

    @property
    def rank_images(self) -> bool: ...

    def rank_sum(self, features_ND: NDArray[Any], length_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return what is added up over the rows of a group, of these rows; the same in any order and division."""
        ...

    def rank_fit(self, total: Mapping[str, NDArray[np.float64]], count: int) -> dict[str, NDArray[np.float64]]:
        """Return what the numbers of a group follow from, from the sums over its `count` rows."""
        ...

    def rank_value(
        self, features_ND: NDArray[Any], length_N: NDArray[np.float64], fitted: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return the number of each of some rows of a group, [N]."""
        ...


@runtime_checkable
class RankedByTargets(Ranked, Protocol):
    """A method that orders all rows by their likeness to targets; its grouping is `all`.

    Attributes:
        targets: label of the validation rows, whose tasks are the targets.
        rank_likeness: to the `nearest` validation row of a target, or the `mean` over all of them; cosines.
    """

    @property
    def targets(self) -> str: ...

    @property
    def rank_likeness(self) -> Literal["nearest", "mean"]: ...

    def rank_by_targets(self, similarity_NT: NDArray[np.float64]) -> Ordering:
        """Order rows that are sorted by key, from their likeness to each target."""
        ...


def ranks_of(order_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each row from the rows in order, int64 [N]."""
    rank_N = np.empty(order_N.shape[0], dtype=np.int64)
    rank_N[order_N] = np.arange(order_N.shape[0])
    return rank_N
