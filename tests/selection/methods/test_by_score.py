"""Methods that rank by one number a row, against sorting in Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.base import Selector
from raycurate.selection.local import select_rows
from tests.selection import naive_baselines as naive
from tests.selection.selection_cases import sample_keys

COLUMN = {"el2n": "el2n", "perplexity": "loss", "clip_score": "clip_score", "self_sup": "similarity"}


def rows_of(method: str, values: list[float | None], *, missing: int = 0) -> pa.Table:
    """Rows as `select` joins them; the last `missing` ones are in no score noun."""
    table = pa.table({"key": sample_keys(len(values)), COLUMN[method]: pa.array(values, pa.float64())})
    if method == "clip_score":
        flags = [value is not None for value in values]
        flags = [None if i >= len(values) - missing else flag for i, flag in enumerate(flags)]
        table = table.append_column("has_image", pa.array(flags, pa.bool_()))
    return table


def kept_of(
    selector: Selector, table: pa.Table, ratio: float, *, usable: int | None = None, block: int = 7
) -> set[str]:
    """The keys that stay, decided block by block."""
    blocks = [table.slice(start, 7) for start in range(0, table.num_rows, 7)]
    tables = SelectionTables(num_rows=table.num_rows, num_usable=usable)
    return {
        key
        for part, made in select_rows(selector, tables, Goal(ratio=ratio), lambda: blocks)
        for key, kept in zip(part["key"].to_pylist(), made.kept_N, strict=True)
        if kept
    }


@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.5000001, 1.0, 3.5, 40.0]), min_size=1, max_size=80),
    ratio=st.floats(0.001, 1),
    keep=st.sampled_from(["low", "middle", "high"]),
    method=st.sampled_from(["el2n", "perplexity"]),
)
def test_the_window_is_that_of_a_sort(values: list[float], ratio: float, keep: str, method: str) -> None:
    """Low, middle and high with many ties: the exact budget, ties by key, for any blocks."""
    table = rows_of(method, list(values))
    target = round(ratio * len(values))
    expected = naive.window(values, table["key"].to_pylist(), target, keep)
    assert kept_of(build_selector(method, {"keep": keep}), table, ratio) == expected
    assert len(expected) == target


@pytest.mark.parametrize("method", ["el2n", "perplexity"])
def test_the_papers_choice_is_the_middle(method: str) -> None:
    """Without options the window is centred on the median rank."""
    values = np.random.default_rng(0).permutation(100).astype(float).tolist()
    table = rows_of(method, list(values))
    kept = kept_of(build_selector(method), table, 0.2)
    chosen = [v for v, key in zip(values, table["key"].to_pylist(), strict=True) if key in kept]
    assert sorted(chosen) == [float(v) for v in range(40, 60)]


@pytest.mark.parametrize("method", ["el2n", "perplexity"])
def test_rows_without_a_score_are_never_kept(method: str) -> None:
    """A quarantined row counts in the target, not in the ranking, and says so."""
    values = [float(v) for v in range(20)] + [None] * 5
    table = rows_of(method, values)
    selector = build_selector(method)
    kept = kept_of(selector, table, 0.4, usable=20)
    assert kept == naive.window([float(v) for v in range(20)], table["key"].to_pylist()[:20], 10, "middle")
    assert len(kept_of(selector, table, 1.0, usable=20)) == 20
    ((_, made),) = select_rows(selector, SelectionTables(num_rows=25, num_usable=20), Goal(ratio=0.4), lambda: [table])
    assert made.reason_N[20:].tolist() == ["no_score"] * 5
    with pytest.raises(UserError, match="none of the 25 rows has a score"):
        kept_of(selector, table, 0.4, usable=0)


def test_clip_score_keeps_the_highest_and_then_text_only_rows() -> None:
    """Rows without an image come last, by key, and only where the others do not fill the budget."""
    values = [0.1, None, 0.9, None, 0.5, 0.5, None, None]
    table = rows_of("clip_score", values, missing=1)
    keys = table["key"].to_pylist()
    selector = build_selector("clip_score")
    assert kept_of(selector, table, 0.25, usable=7) == {keys[2], min(keys[4], keys[5])}
    text_only = sorted(keys[i] for i in (1, 3, 6))
    assert kept_of(selector, table, 0.625, usable=7) == {keys[0], keys[2], keys[4], keys[5], text_only[0]}
    assert kept_of(selector, table, 1.0, usable=7) == set(keys[:7])


def test_clip_score_of_text_alone_keeps_its_budget() -> None:
    """A dataset without an image has no score to rank by: keys decide, the budget holds."""
    table = rows_of("clip_score", [None] * 10)
    kept = kept_of(build_selector("clip_score"), table, 0.3)
    assert kept == set(sorted(table["key"].to_pylist())[:3])


@pytest.mark.parametrize("ratio", [0.01, 0.02, 0.5, 1.0])
def test_self_sup_keeps_the_rows_nearest_to_their_centroid(ratio: float) -> None:
    """The closest over all clusters; rows in no cluster take no part."""
    similarity = np.random.default_rng(1).uniform(0.2, 1, 100).round(2)
    table = rows_of("self_sup", similarity.tolist())
    expected = naive.window((1 - similarity).tolist(), table["key"].to_pylist(), round(100 * ratio), "low")
    assert kept_of(build_selector("self_sup"), table, ratio) == expected
    assert kept_of(build_selector("self_sup"), rows_of("self_sup", [None, 0.5]), 1.0, usable=1) == {sample_keys(2)[1]}


def test_an_unknown_part_of_the_ranking_is_refused() -> None:
    """`keep` has three values, and CLIP scores have no middle."""
    with pytest.raises(UserError, match="option 'keep' of method 'el2n' is 'centre'"):
        build_selector("el2n", {"keep": "centre"})
    with pytest.raises(UserError, match="option 'keep' of method 'clip_score'"):
        build_selector("clip_score", {"keep": "middle"})
