from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import threshold
from raycurate.selection.base import Goal, Plan, RowOrder, decide_by_cut, order_word
from raycurate.selection.threshold import CutSearch, merge_summaries, summarize
from tests.selection.selection_cases import sample_keys


def _plan(groups: np.ndarray, quota: list[int]) -> Plan:
    return Plan(
        goal=Goal(ratio=0.5),
        target=sum(quota),
        group_column="group",
        groups=pa.array(range(len(quota))),
        size_G=np.bincount(groups[groups >= 0], minlength=len(quota)),
        quota_G=np.array(quota),
        needs_cut=True,
    )


def _search(plan: Plan, blocks: list[RowOrder]) -> tuple[Plan, int]:
    search, passes = CutSearch(plan), 0
    while (request := search.request) is not None:
        search.advance(merge_summaries(summarize(request, block) for block in blocks))
        passes += 1
    return plan.with_boundaries(search.boundaries), passes


def _kept(plan: Plan, order: RowOrder) -> set[bytes]:
    decisions = decide_by_cut(plan, order, order.word_N / 2.0**64, kept_reason="yes", dropped_reason="no")
    return set(order.key_N[decisions.kept_N].tolist())


def _split(order: RowOrder, parts: int, seed: int) -> list[RowOrder]:
    mixed = np.random.default_rng(seed).permutation(order.key_N.shape[0])
    return [
        RowOrder(group_N=order.group_N[rows], word_N=order.word_N[rows], key_N=order.key_N[rows])
        for rows in np.array_split(mixed, parts)
    ]


@given(
    rows=st.integers(1, 300),
    groups=st.integers(1, 7),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    seed=st.integers(0, 2**31),
    parts=st.integers(1, 5),
    collect=st.sampled_from([0, 1, 8, 2**16]),
)
def test_the_cut_is_that_of_a_sort(rows: int, groups: int, levels: int, seed: int, parts: int, collect: int) -> None:
    """Exactly the rows of a full sort by (score, key), for any ties, shards, and memory."""
    random = np.random.default_rng(seed)
    score = random.integers(0, levels, rows) / 7 - levels / 14
    order = RowOrder(
        group_N=random.integers(-1, groups, rows),
        word_N=order_word(score),
        key_N=np.array(sample_keys(rows, seed), dtype=np.bytes_),
    )
    sizes = np.bincount(order.group_N[order.group_N >= 0], minlength=groups)
    quota = [int(random.integers(0, size + 1)) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "COLLECT_ROWS", collect)
        patch.setattr(threshold, "MAX_COUNTERS", 2**11)
        plan, _ = _search(_plan(order.group_N, quota), _split(order, parts, seed))
    expected = set()
    for group, count in enumerate(quota):
        members = [row for row in range(rows) if order.group_N[row] == group]
        members.sort(key=lambda row: (score[row], order.key_N[row]))
        expected |= {bytes(order.key_N[row]) for row in members[:count]}
    assert _kept(plan, order) == expected


def test_many_rows_that_all_tie_are_cut_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One score for all rows: the keys decide, without collecting the rows."""
    monkeypatch.setattr(threshold, "COLLECT_ROWS", 50)
    keys = np.array(sorted(sample_keys(3000)), dtype=np.bytes_)
    order = RowOrder(group_N=np.zeros(3000, dtype=int), word_N=order_word(np.zeros(3000)), key_N=keys)
    plan, passes = _search(_plan(order.group_N, [1234]), _split(order, 4, 0))
    assert _kept(plan, order) == set(keys[:1234].tolist())
    assert passes <= 6


def test_a_uniform_hash_needs_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass of counts and one of the rows in the last bucket."""
    monkeypatch.setattr(threshold, "COLLECT_ROWS", 100)
    words = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    order = RowOrder(
        group_N=np.zeros(20_000, dtype=int), word_N=words, key_N=np.array(sample_keys(20_000), dtype=np.bytes_)
    )
    plan, passes = _search(_plan(order.group_N, [4_000]), [order])
    assert passes == 2
    assert len(_kept(plan, order)) == 4_000


def test_rows_that_do_not_add_up_are_an_error() -> None:
    """A table of another run is found out, not silently cut."""
    order = RowOrder(group_N=np.zeros(5, dtype=int), word_N=np.arange(5, dtype=np.uint64), key_N=np.array([b"k"] * 5))
    plan = _plan(np.zeros(6, dtype=int), [3])
    with pytest.raises(UserError, match="has 5 rows where the plan's table has 6"):
        _search(plan, [order])


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_order_words_keep_the_order_of_scores(scores: list[float]) -> None:
    """Monotone over all floats; zeros of both signs are one; NaN is last."""
    words = order_word(np.array([*scores, np.nan, 0.0, -0.0]))
    assert words[-1] == words[-2]
    assert (words[:-3] < words[-3]).all()
    for left in range(len(scores)):
        for right in range(len(scores)):
            assert (words[left] < words[right]) == (scores[left] < scores[right])
