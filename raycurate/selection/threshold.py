"""The exact cut of each group by streaming: which row is the M-th smallest, without holding the rows.

Rows of a group are ordered by (order word, key). For a quota of M the cut is the M-th of them. It is found by
radix refinement: each pass over the shards counts, for the rows that still share the cut's prefix, the next
`bits` bits of the order; the counts of all shards add up to a histogram that says which bucket holds the M-th
row. When few enough rows share the prefix they are collected and sorted. The order is the 64-bit word, then
the key's bytes: exact for any ties, and independent of shards, blocks and workers since only counts and sets
are merged.

Cost: 2 passes over (key, group, score) for scores that differ, more only where many rows tie; a summary is at
most MAX_COUNTERS * 8 = 8 MiB, or COLLECT_ROWS rows (ROWS_A_GROUP for each group, where that is more). Many
groups share the counters, so each pass then refines fewer bits (10,000 groups: 6 bits a pass).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import Boundaries, Plan, RowOrder
from raycurate.selection.keys import key_word

MAX_COUNTERS = 2**20
MAX_BITS = 16
COLLECT_ROWS = 2**16
ROWS_A_GROUP = 4
WORD_BITS = 64
# Keys are unique, so their bytes tell rows apart; beyond this many words (256 bytes) collect whatever is left.
MAX_WORDS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class CutRequest:
    """What every shard must summarize in this pass; small, and the same for all shards.

    Attributes:
        collect: send the matching rows rather than counts.
        active_G: groups that are still searched, bool [G].
        prefix_WG: the words of the cut that are known in full, uint64 [W, G].
        partial_G: the known high bits of the next word, as a number, uint64 [G].
        known_bits: how many high bits those are.
        bits: how many further bits to count.
    """

    collect: bool
    active_G: NDArray[np.bool_]
    prefix_WG: NDArray[np.uint64]
    partial_G: NDArray[np.uint64]
    known_bits: int
    bits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CutSummary:
    """The answer of one block, or of many: `merge_summaries` adds them in any order.

    Attributes:
        count_GB: matching rows by group and next bits, int64 [G, 2^bits]; empty when collecting.
        rows: matching rows when collecting, else empty.
    """

    count_GB: NDArray[np.int64]
    rows: RowOrder


def summarize(request: CutRequest, order: RowOrder) -> CutSummary:
    """Answer a request for one block of rows."""
    groups = request.active_G.shape[0]
    match_N = (order.group_N >= 0) & request.active_G[np.maximum(order.group_N, 0)]
    rows = _take(order, np.flatnonzero(match_N))
    depth = request.prefix_WG.shape[0]
    for word in range(depth):
        same = _word(rows, word) == request.prefix_WG[word][rows.group_N]
        rows = _take(rows, np.flatnonzero(same))
    word_N = _word(rows, depth)
    if request.known_bits:
        high_N = word_N >> np.uint64(WORD_BITS - request.known_bits)
        same = high_N == request.partial_G[rows.group_N]
        rows, word_N = _take(rows, np.flatnonzero(same)), word_N[same]
    if request.collect:
        return CutSummary(count_GB=np.zeros((groups, 0), dtype=np.int64), rows=rows)
    buckets = 1 << request.bits
    low = WORD_BITS - request.known_bits - request.bits
    digit_N = ((word_N >> np.uint64(low)) & np.uint64(buckets - 1)).astype(np.int64)
    count_N = np.bincount(rows.group_N * buckets + digit_N, minlength=groups * buckets)
    return CutSummary(count_GB=count_N.reshape(groups, buckets), rows=_take(rows, np.zeros(0, dtype=np.int64)))


def merge_summaries(parts: Iterable[CutSummary]) -> CutSummary:
    """Add summaries of the same request; at least one is needed."""
    held = list(parts)
    widest = max(part.rows.key_N.dtype.itemsize for part in held)
    return CutSummary(
        count_GB=np.sum([part.count_GB for part in held], axis=0, dtype=np.int64),
        rows=RowOrder(
            group_N=np.concatenate([part.rows.group_N for part in held]),
            word_N=np.concatenate([part.rows.word_N for part in held]),
            key_N=np.concatenate([part.rows.key_N.astype(f"S{widest}") for part in held]),
        ),
    )


def find_cuts(plan: Plan, ask: Callable[[CutRequest], CutSummary]) -> Plan:
    """Return the plan with its cuts found, both ends where it skips rows; `ask` answers for all rows."""

    def search(quota_G: NDArray[np.int64]) -> Boundaries:
        cuts = CutSearch(plan, quota_G)
        while (request := cuts.request) is not None:
            cuts.advance(ask(request))
        return cuts.boundaries

    if plan.skip_G is None:
        return plan.with_boundaries(search(plan.quota_G))
    return plan.with_boundaries(search(plan.skip_G + plan.quota_G), search(plan.skip_G))


class CutSearch:
    """The driver's side: ask `request`, give the merged answer to `advance`, until `request` is None."""

    def __init__(self, plan: Plan, quota_G: NDArray[np.int64] | None = None) -> None:
        """Start a search for the first `quota_G` rows (those of `plan`); groups of none, or all, need none."""
        groups = plan.quota_G.shape[0]
        self._labels = plan.groups
        self._quota_G = np.minimum(plan.quota_G if quota_G is None else quota_G, plan.size_G)
        self._whole_G = self._quota_G == plan.size_G
        self._active_G = (self._quota_G > 0) & ~self._whole_G
        self._rank_G = self._quota_G - 1
        self._matching_G = np.where(self._active_G, plan.size_G, 0)
        self._prefix_WG = np.zeros((0, groups), dtype=np.uint64)
        self._partial_G = np.zeros(groups, dtype=np.uint64)
        self._known_bits = 0
        self._word_G = np.zeros(groups, dtype=np.uint64)
        self._keys: list[bytes] = [b""] * groups
        fit = (MAX_COUNTERS // max(groups, 1)).bit_length() - 1
        self._bits = min(MAX_BITS, max(fit, 1))

    @property
    def request(self) -> CutRequest | None:
        """What to ask of every shard next, or None when the cuts are found."""
        if not self._active_G.any():
            return None
        # Every group that is searched has a row at least, so many groups are never few rows.
        few = int(self._matching_G.sum()) <= max(COLLECT_ROWS, ROWS_A_GROUP * int(self._active_G.sum()))
        return CutRequest(
            collect=few or self._prefix_WG.shape[0] > MAX_WORDS,
            active_G=self._active_G.copy(),
            prefix_WG=self._prefix_WG,
            partial_G=self._partial_G,
            known_bits=self._known_bits,
            bits=min(self._bits, WORD_BITS - self._known_bits),
        )

    def advance(self, summary: CutSummary) -> None:
        """Take the merged answer of all shards to the last request.

        Raises:
            UserError: the rows do not add up to the plan's table, so the two belong to different runs.
        """
        collected = summary.count_GB.shape[1] == 0
        found_G = (
            np.bincount(summary.rows.group_N, minlength=self._quota_G.shape[0])
            if collected
            else summary.count_GB.sum(axis=1)
        )
        self._check(found_G)
        if collected:
            self._finish(summary.rows)
        else:
            self._refine(summary.count_GB)

    @property
    def boundaries(self) -> Boundaries:
        """The cuts, once `request` is None."""
        assert not self._active_G.any(), "the search is not finished"
        return Boundaries(
            word_G=self._word_G,
            key_G=np.array(self._keys, dtype=np.bytes_),
            some_G=self._quota_G > 0,
            whole_G=self._whole_G,
        )

    def _check(self, found_G: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero(found_G != self._matching_G)
        if wrong.size:
            group = int(wrong[0])
            raise UserError(
                f"group {self._labels[group].as_py()!r} has {int(found_G[group])} rows where the plan's table has "
                f"{int(self._matching_G[group])}; the run directory changed, run the stages before `select` again"
            )

    def _refine(self, count_GB: NDArray[np.int64]) -> None:
        bits = count_GB.shape[1].bit_length() - 1
        upto_GB = count_GB.cumsum(axis=1)
        bucket_G = (upto_GB <= self._rank_G[:, None]).sum(axis=1)
        bucket_G = np.where(self._active_G, bucket_G, 0)
        here_G = np.take_along_axis(count_GB, bucket_G[:, None], axis=1)[:, 0]
        before_G = np.take_along_axis(upto_GB, bucket_G[:, None], axis=1)[:, 0] - here_G
        self._rank_G = np.where(self._active_G, self._rank_G - before_G, 0)
        self._matching_G = here_G
        self._partial_G = (self._partial_G << np.uint64(bits)) | bucket_G.astype(np.uint64)
        self._known_bits += bits
        if self._known_bits == WORD_BITS:
            self._prefix_WG = np.vstack([self._prefix_WG, self._partial_G])
            self._partial_G = np.zeros_like(self._partial_G)
            self._known_bits = 0

    def _finish(self, rows: RowOrder) -> None:
        by_order = np.lexsort((rows.key_N, rows.word_N, rows.group_N))
        starts_G = np.cumsum(self._matching_G) - self._matching_G
        for group in np.flatnonzero(self._active_G).tolist():
            row = by_order[starts_G[group] + self._rank_G[group]]
            self._word_G[group] = rows.word_N[row]
            self._keys[group] = bytes(rows.key_N[row])
        self._active_G = np.zeros_like(self._active_G)


def _word(rows: RowOrder, word: int) -> NDArray[np.uint64]:
    return rows.word_N if word == 0 else key_word(rows.key_N, word - 1)


def _take(rows: RowOrder, index: NDArray[np.int64]) -> RowOrder:
    return RowOrder(group_N=rows.group_N[index], word_N=rows.word_N[index], key_N=rows.key_N[index])
