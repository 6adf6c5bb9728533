"""DICS against sorted pools and slow farthest points: small and large parts, text alone, ties, an envelope."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.envelope import Envelope
from raycurate.selection.enveloped import Enveloped
from raycurate.selection.keys import key_array
from raycurate.selection.methods.dics import Dics
from raycurate.selection.ranked import GroupRows
from tests.selection import naive_dics
from tests.selection.selection_cases import in_blocks, kept_keys, sample_keys, unit_features


def scores_of(seed: int, rows: int) -> pa.Table:
    """Losses with many ties; some rows of text alone."""
    random = np.random.default_rng(seed)
    loss, blind = (random.choice([0.5, 1.0, 2.5], rows).astype(np.float32) for _ in range(2))
    return pa.table({"loss": loss, "loss_blind": pa.array(blind, mask=random.random(rows) < 0.3)})


def ranked(method: Dics, seed: int, rows: int) -> tuple[pa.Table, list[str]]:
    """Keys, tasks and ranks of rows that come in another order than their keys', and the slow loops' order."""
    features, keys, scores = unit_features(rows, 8, seed), sample_keys(rows, seed), scores_of(seed, rows)
    at = np.argsort(keys)
    held = GroupRows(
        features_ND=features[at],
        keys_N=key_array(pa.array(keys))[at],
        similarity_N=np.full(rows, np.nan),
        score_N=method.rank_score_of(scores)[at],
    )
    rank_N = np.empty(rows, dtype=np.int64)
    rank_N[at] = method.rank_group(held).rank_N
    table = pa.table({"key": keys, "task": [f"t{i % 3}" for i in range(rows)], "rank": rank_N})
    assert method.ratio is not None
    lists = (scores[name].to_pylist() for name in ("loss", "loss_blind"))
    return table, naive_dics.order(features, keys, *lists, method.ratio)


@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 40), ratio=st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.51, 0.8, 1.0])
)
def test_the_order_is_that_of_its_formula(seed: int, rows: int, ratio: float) -> None:
    """Farthest points of the 2 M best; beyond a half the best for sure and farthest points of the others."""
    table, expected = ranked(Dics(ratio=ratio), seed, rows)
    by_rank = table.sort_by("rank")
    assert by_rank["key"].to_pylist() == expected
    assert by_rank["rank"].to_pylist() == list(range(rows))


def test_it_keeps_the_first_rows_and_goes_on_inside_an_envelope() -> None:
    """Exact budgets for any blocks; rows without a rank take no part."""
    table, expected = ranked(Dics(ratio=0.3), 4, 60)
    lost = table["rank"].to_numpy() == 59
    table = table.set_column(2, "rank", pa.array(table["rank"].to_numpy(), mask=lost))
    tables = SelectionTables(num_rows=60, tasks=dict.fromkeys(("t0", "t1", "t2"), 20), num_usable=59)
    goal, method = Goal(ratio=0.3), build_selector("dics")
    assert kept_keys(method, tables, goal, [table]) == set(expected[:18])
    within = Enveloped(method=method, envelope=Envelope(floor=0.9, cap=1.1))
    kept = kept_keys(within, tables, goal, [table])
    assert len(kept) == 18
    assert kept == kept_keys(within, tables, goal, in_blocks(table, 7))
    free = Enveloped(method=method, envelope=Envelope(floor=0.0, cap=float("inf"), random_share=0.0))
    assert kept_keys(free, tables, replace(goal, ratio=0.5), [table]) == set(expected[:30])


def test_what_it_cannot_rank_is_told() -> None:
    """A ratio that is none, or is missing; a row without a loss has no score, one of text alone has 1."""
    with pytest.raises(UserError, match="ratio of method 'dics' is 2.0"):
        build_selector("dics", {"ratio": 2})
    keys_N = key_array(pa.array(["a", "b"]))
    held = GroupRows(features_ND=unit_features(2, 4, 0), keys_N=keys_N, similarity_N=np.zeros(2), score_N=np.zeros(2))
    with pytest.raises(UserError, match="ranks for one ratio"):
        Dics().rank_group(held)
    scores = pa.table({"loss": [1.0, None, 2.0], "loss_blind": [None, None, 3.0]})
    assert Dics().rank_score_of(scores) == pytest.approx([1.0, np.nan, np.e], nan_ok=True)
