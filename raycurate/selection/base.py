"""What a selection method is: the protocol, and the small tables that flow through it.

A method never sees the whole dataset. It works in two steps:

1. `plan(tables, goal)`: on the driver, from small tables only (clusters, tasks, the number of rows), divide
   the target among groups of rows: one group for a global draw, one a task, one a cluster.
2. `decide(plan, rows)`: for any block of rows, in any process, say which are kept, with a score and a reason.
   Pure, so the answer does not depend on blocks, workers or order.

Where the rows to keep in a group follow from a score that no stage has ranked, the plan says so
(`plan.needs_cut`) and the method gives each row's place with `order(plan, rows)`. The caller then finds the
exact cuts by streaming counts (`threshold.CutSearch`) and hands them to the plan before `decide`;
`local.select_rows` shows the three steps. A selector whose plan itself needs counts of the rows, such as the
envelope around another one (`enveloped.py`), has `plan_by_counting`.

Rows travel as `pyarrow.Table` blocks with at least the columns in `method.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.cells import CellTable
from raycurate.selection.keys import Keys, key_array

EachBlock = Callable[[Callable[[pa.Table], Any]], Iterator[Any]]
"""Calls a function with every block of rows and gives the results, in any order."""

REASONS: Mapping[str, str] = {
    "within_quota": "kept: ranked within the quota of its cluster",
    "over_quota": "dropped: the quota of its cluster was filled by rows of better rank",
    "drawn": "kept: drawn by the seeded hash of its key",
    "not_drawn": "dropped: not drawn by the seeded hash of its key",
    "within_range": "kept: its score lies in the part of the ranking that is kept",
    "outside_range": "dropped: its score lies outside the part of the ranking that is kept",
    "within_budget": "kept: among the method's first rows of its task, within the task's budget",
    "over_budget": "dropped: the budget of its task was filled by rows that the method puts first",
    "kept_before": "kept: an earlier selection kept it (--keep-selected)",
    "no_features": "dropped: no features could be extracted from it",
    "no_gain": "dropped: the image does not help to tell its answer",
    "no_score": "dropped: no score could be computed for it",
    "no_group": "dropped: it belongs to no cluster or task of the plan",
    "where": "marked: the condition of `select --where` does not hold for it",
    "exact_copy": "marked: it has the text and the pixels of another row, which `raycurate dedup` names",
    "near_image": "marked: it has the text of another row, and images near its images",
    "near_text": "marked: it has the images of another row, and words near its words",
    "near_features": "marked: its features are near those of another row of its cluster",
    "test_row": "marked: it is a row of the test set that `raycurate decontaminate` compared with",
    "test_image": "marked: it shows an image of the test set",
    "test_near_image": "marked: it shows an image near one of the test set, or a crop of one",
    "test_text": "marked: it has most words of a question and answer of the test set",
}
NOT_USABLE = ("no_features", "no_score", "no_group")
"""Reasons of rows that a method cannot keep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """How much to keep, of which tasks, and the seed of every draw.

    Attributes:
        ratio: part of all rows to keep, in (0, 1].
        seed: any integer.
        task_power: the shares of tasks follow their sizes to this power, in [0, 1] (`shares.py`).
        task_weights: and these weights, where given.
    """

    ratio: float
    seed: int = 0
    task_power: float = 1.0
    task_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise UserError(f"ratio is {self.ratio}; it must be above 0 and at most 1, for example 0.2")
        if not 0 <= self.task_power <= 1:
            raise UserError(
                f"task_power is {self.task_power}; it must be from 0 (all tasks alike) to 1 (as the rows they have)"
            )

    def target(self, num_rows: int) -> int:
        """Return round(ratio * num_rows)."""
        return round(self.ratio * num_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterTable:
    """One row a cluster, sorted by cluster id.

    Attributes:
        cluster_K: ids, int64 [K].
        size_K: rows, int64 [K].
        transferability: S by reading (`paper`, `code`), each float64 [K]; those that were computed.
        density: D by reading (`paper`, `code`), each float64 [K]; empty before `rank`.
    """

    cluster_K: NDArray[np.int64]
    size_K: NDArray[np.int64]
    transferability: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    density: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionTables:
    """All that a plan may look at; its size does not grow with the number of rows.

    Attributes:
        num_rows: rows in all; the target is a part of these.
        tasks: rows of each task, where the method needs them.
        clusters: the cluster table, where the method needs it.
        cells: rows by task and cluster, where the method needs them.
        num_usable: rows that can be kept, for what the method needs to know of them; None where that is all rows.
    """

    num_rows: int
    tasks: Mapping[str, int] | None = None
    clusters: ClusterTable | None = None
    cells: CellTable | None = None
    num_usable: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundaries:
    """The last row kept in each group: rows up to (word, key), inclusive, are kept.

    Attributes:
        word_G: order words, uint64 [G].
        key_G: keys, bytes [G].
        some_G: whether the group keeps any row, bool [G].
        whole_G: whether it keeps all of them, bool [G].
    """

    word_G: NDArray[np.uint64]
    key_G: Keys
    some_G: NDArray[np.bool_]
    whole_G: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many rows each group keeps.

    Attributes:
        goal: what was asked.
        target: rows wanted, round(ratio * num_rows).
        group_column: the column that names a row's group; None for one group of all rows.
        groups: group labels, [G].
        size_G: rows of each group, int64 [G].
        quota_G: rows to keep of each group, int64 [G].
        report: further numbers of each group, by name, [G] each (for example S, D, P of a cluster).
        needs_cut: whether `boundaries` must be found before `decide`.
        boundaries: the cut of each group, once found.
        skip_G: rows of each group to leave out before the quota begins, int64 [G]; None for none.
        lower: the last row of each group that is left out so, once found.
    """

    goal: Goal
    target: int
    group_column: str | None
    groups: pa.Array
    size_G: NDArray[np.int64]
    quota_G: NDArray[np.int64]
    report: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    needs_cut: bool = False
    boundaries: Boundaries | None = None
    skip_G: NDArray[np.int64] | None = None
    lower: Boundaries | None = None

    @property
    def expected(self) -> int:
        """Rows that the decisions will keep in all."""
        return int(self.quota_G.sum())

    def with_boundaries(self, boundaries: Boundaries, lower: Boundaries | None = None) -> Plan:
        """Return the plan with its cuts found."""
        return replace(self, boundaries=boundaries, lower=lower)

    def group_index(self, rows: pa.Table) -> NDArray[np.int64]:
        """Return the position in `groups` of each row, -1 for a row of no group, int64 [N]."""
        if self.group_column is None:
            return np.zeros(rows.num_rows, dtype=np.int64)
        found = pc.index_in(rows.column(self.group_column).cast(self.groups.type), value_set=self.groups)
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOrder:
    """The place of each row within its group: ascending (word, key), the first rows are kept.

    Attributes:
        group_N: position of the row's group in the plan, -1 for a row that takes no part, int64 [N].
        word_N: order word, uint64 [N] (`order_word` makes one from a score).
        key_N: keys, bytes [N].
    """

    group_N: NDArray[np.int64]
    word_N: NDArray[np.uint64]
    key_N: Keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What was decided about a block of rows, in the order of the block.

    Attributes:
        kept_N: bool [N].
        score_N: the number that was compared, in the method's own unit, lower first, float64 [N].
        reason_N: a short code, str [N]; `REASONS` has the text of the built-in ones.
    """

    kept_N: NDArray[np.bool_]
    score_N: NDArray[np.float64]
    reason_N: NDArray[np.str_]


@runtime_checkable
class Selector(Protocol):
    """A selection method with its options set.

    Attributes:
        needs: nouns of the run directory that it reads: `samples`, `clusters`, `ranking`, or `noun/label`, for
            example `row_scores/token_losses`, `clusters/mean_token` where those are its usual clusters, or
            `ranking/by-task` for an order of the rows of each task in a cluster.
        columns: columns of the rows that `decide` and `order` read.

    One whose plan follows `goal.task_power` and `goal.task_weights` says so by an attribute `has_task_shares`, and
    may name a power of its own, `own_task_power`, for where none is asked for.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def columns(self) -> frozenset[str]: ...

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """Divide the target among groups; raises UserError for a table that is missing or unusable."""
        ...

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Give each row's place in its group; called only where `plan.needs_cut`."""
        ...

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep or drop each row of a block."""
        ...


@runtime_checkable
class PlansByCounting(Protocol):
    """What a selector has besides, if it must look at the rows to make its plan."""

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
        """Return the plan with all its cuts found."""
        ...


def order_word(score_N: NDArray[np.floating[Any]]) -> NDArray[np.uint64]:
    """Return uint64 words in the order of the scores, [N]: negative zero equals zero, NaN comes last."""
    bits_N = np.ascontiguousarray(score_N.astype(np.float64) + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    word_N = np.where(bits_N & sign, ~bits_N, bits_N | sign)
    return np.where(np.isnan(score_N), np.uint64(2**64 - 1), word_N)


def decide_by_cut(
    plan: Plan, order: RowOrder, score_N: NDArray[np.float64], *, kept_reason: str, dropped_reason: str
) -> Decisions:
    """Keep the rows of each group up to its boundary, inclusive, without those up to its lower one."""
    assert plan.boundaries is not None, "decide() before the plan's boundaries were found"
    known_N = order.group_N >= 0
    kept_N = _up_to(plan.boundaries, order)
    if plan.lower is not None:
        kept_N &= ~_up_to(plan.lower, order)
    return Decisions(kept_N=kept_N, score_N=score_N, reason_N=reasons(kept_N, known_N, kept_reason, dropped_reason))


def _up_to(cut: Boundaries, order: RowOrder) -> NDArray[np.bool_]:
    """Say which rows come no later in their group than its boundary, bool [N]."""
    known_N = order.group_N >= 0
    if not known_N.any():
        return known_N
    group_N = np.where(known_N, order.group_N, 0)
    word_N = cut.word_G[group_N]
    before_N = (order.word_N < word_N) | ((order.word_N == word_N) & (order.key_N <= cut.key_G[group_N]))
    return known_N & cut.some_G[group_N] & (cut.whole_G[group_N] | before_N)


def reasons(
    kept_N: NDArray[np.bool_], known_N: NDArray[np.bool_], kept_reason: str, dropped_reason: str
) -> NDArray[np.str_]:
    """Return one reason code a row; rows of no group get `no_group`."""
    return np.where(kept_N, kept_reason, np.where(known_N, dropped_reason, "no_group"))


def own_order(method: Selector, plan: Plan, rows: pa.Table) -> RowOrder:
    """Give the place of each row in its group of a plan of the method, -1 for one that takes no part.

    A method that needs no cut compares a score, lower first.
    """
    if plan.needs_cut:
        return method.order(plan, rows)
    made = method.decide(plan, rows)
    known_N = ~np.isin(made.reason_N, NOT_USABLE)
    return RowOrder(
        group_N=np.where(known_N, plan.group_index(rows), -1),
        word_N=order_word(made.score_N),
        key_N=key_array(rows["key"]),
    )
