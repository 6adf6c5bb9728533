"""SemDeDup, D2 pruning and Self-Filter against slow loops in float64, with ties, duplicates and one cluster."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, neighbours
from raycurate.selection.greedy import greedy_order
from raycurate.selection.keys import key_array
from raycurate.selection.local import select_rows
from raycurate.selection.methods.d2_pruning import D2Pruning
from raycurate.selection.methods.self_filter import SelfFilter
from raycurate.selection.methods.semdedup import SemDeDup
from raycurate.selection.neighbours import Neighbours, join_parts, search_part
from raycurate.selection.ranked import GroupRows, Ordering, RankedInGroups, RankedOnGraph
from tests.selection import naive_baselines as naive
from tests.selection.selection_cases import sample_keys, unit_features


def group(features: np.ndarray, keys: list[str], *, similarity=None, score=None) -> GroupRows:
    """Rows of one group, in any order."""
    nothing = np.full(len(keys), np.nan)
    return GroupRows(
        features_ND=features,
        keys_N=key_array(pa.array(keys)),
        similarity_N=nothing if similarity is None else np.asarray(similarity, dtype=np.float64),
        score_N=nothing if score is None else np.asarray(score, dtype=np.float64),
    )


def ordering(method: RankedInGroups | RankedOnGraph, rows: GroupRows) -> Ordering:
    """The order of the rows as they come; fails unless ranks are 0 .. N - 1."""
    if isinstance(method, RankedOnGraph):
        by_key = np.argsort(rows.keys_N)
        graph = nearest_neighbours(rows.features_ND[by_key], method.neighbours)
        made = method.rank_on_graph(rows.score_N[by_key], graph)
        back = np.argsort(by_key)
        made = Ordering(rank_N=made.rank_N[back], value_N=made.value_N[back])
    else:
        made = method.rank_group(rows)
    assert sorted(made.rank_N.tolist()) == list(range(len(rows.keys_N)))
    return made


def nearest_neighbours(features: np.ndarray, count: int, **settings) -> Neighbours:
    """The graph, searched in one part."""
    return join_parts([search_part(features, count, **settings)])


def order_of(method: RankedOnGraph, rows: GroupRows, keys: list[str]) -> list[str]:
    """Keys by rank."""
    return [keys[i] for i in np.argsort(ordering(method, rows).rank_N)]


def with_duplicates(rows: int, seed: int, dim: int = 12) -> np.ndarray:
    """Unit rows of which every third repeats another one."""
    features = unit_features(rows, dim, seed)
    features[::3] = features[rows // 2]
    return features


@given(rows=st.integers(1, 40), seed=st.integers(0, 500), ratio=st.floats(0.01, 1))
def test_semdedup_keeps_the_rows_least_like_an_earlier_one(rows: int, seed: int, ratio: float) -> None:
    """M_j equals the slow loop's, and the budget is exact over several clusters, duplicates and ties included."""
    random = np.random.default_rng(seed)
    features, keys = with_duplicates(rows, seed), sample_keys(rows, seed)
    labels = random.integers(0, 3, rows)
    similarity = random.choice([0.25, 0.5, 0.75], rows)
    value = np.zeros(rows)
    expected: dict[str, float] = {}
    for cluster in np.unique(labels):
        at = np.flatnonzero(labels == cluster)
        own = [keys[i] for i in at]
        found = SemDeDup().rank_group(group(features[at], own, similarity=similarity[at]))
        naive_values = naive.semdedup_values(features[at], own, similarity[at])
        assert found.value_N == pytest.approx([naive_values[key] for key in own], abs=1e-12)
        value[at] = found.value_N
        expected |= dict(zip(own, found.value_N, strict=True))
    table = pa.table({"key": keys, "value": value})
    made = select_rows(SemDeDup(), SelectionTables(num_rows=rows), Goal(ratio=ratio), lambda: [table])
    kept = {key for part, d in made for key, keep in zip(part["key"].to_pylist(), d.kept_N, strict=True) if keep}
    assert kept == naive.window([expected[k] for k in keys], keys, round(ratio * rows), "low")


def test_semdedup_keeps_one_row_of_every_set_of_copies() -> None:
    """With room for the distinct rows only, no copy of a kept row is kept."""
    distinct, keys = unit_features(10, 16, 3, spread=2.0), sample_keys(30)
    features = np.tile(distinct, (3, 1))
    rank_N = SemDeDup().rank_group(group(features, keys, similarity=np.tile(np.linspace(0, 0.9, 10), 3))).rank_N
    assert sorted((np.flatnonzero(rank_N < 10) % 10).tolist()) == list(range(10))


def test_semdedup_of_more_than_one_tile_equals_the_slow_form() -> None:
    """Clusters above the tile of 1,024 rows: the maximum over all earlier rows, not of the own tile."""
    features, keys = unit_features(2100, 8, 0, spread=2.0), sample_keys(2100)
    similarity = np.random.default_rng(0).uniform(size=2100)
    found = SemDeDup().rank_group(group(features, keys, similarity=similarity)).value_N
    order = np.argsort(similarity)
    wide = features[order].astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosine = np.triu(wide @ wide.T, 1)
    cosine[np.tril_indices(2100)] = -1.0
    assert found[order] == pytest.approx(cosine.max(axis=0), abs=1e-9)


@given(rows=st.integers(1, 30), seed=st.integers(0, 500), k=st.integers(1, 6))
def test_d2_pruning_takes_rows_as_the_slow_loop_does(rows: int, seed: int, k: int) -> None:
    """Forward and reverse messages with the true argmax; difficulties below zero are clipped."""
    features, keys = unit_features(rows, 12, seed), sample_keys(rows, seed)
    scores = np.random.default_rng(seed).uniform(-0.5, 1, rows)
    expected = naive.d2_order(features, keys, scores.tolist(), k, 0.4, 1.0, 1e-6)
    assert order_of(D2Pruning(neighbours=k), group(features, keys, score=scores), keys) == expected


@given(rows=st.integers(1, 30), seed=st.integers(0, 500), k=st.integers(1, 12))
def test_self_filter_takes_rows_as_the_slow_loop_does(rows: int, seed: int, k: int) -> None:
    """Hardest first, look-alikes lowered by the squared cosine; negative difficulties too."""
    features, keys = unit_features(rows, 12, seed), sample_keys(rows, seed)
    difficulty = np.random.default_rng(seed).normal(size=rows)
    expected = naive.self_filter_order(features, keys, difficulty.tolist(), k, 1.0)
    assert order_of(SelfFilter(neighbours=k), group(features, keys, score=difficulty), keys) == expected


@pytest.mark.parametrize("method", [D2Pruning(), SelfFilter()])
def test_the_order_of_rows_changes_nothing(method: RankedOnGraph) -> None:
    """Ties and duplicates break by key, not by place."""
    features, keys = with_duplicates(60, 5), sample_keys(60)
    score = np.random.default_rng(2).choice([0.1, 0.5], 60)
    mixed = np.random.default_rng(3).permutation(60)
    first = order_of(method, group(features, keys, score=score), keys)
    other_keys = [keys[i] for i in mixed]
    assert order_of(method, group(features[mixed], other_keys, score=score[mixed]), other_keys) == first


@pytest.mark.parametrize("method", [D2Pruning(), SelfFilter(), SemDeDup()])
@pytest.mark.parametrize("ratio", [0.004, 0.2, 1.0])
def test_all_rows_alike_keep_the_budget_by_key(method, ratio: float) -> None:
    """One cluster of copies with one score: exactly the target, the lowest keys."""
    keys = sample_keys(250)
    features = np.repeat(unit_features(1, 8, 0), 250, axis=0)
    made = ordering(method, group(features, keys, similarity=np.full(250, 0.5), score=np.full(250, 0.5)))
    table = pa.table({"key": keys, "rank": made.rank_N, "value": made.value_N})
    ((_, decided),) = select_rows(method, SelectionTables(num_rows=250), Goal(ratio=ratio), lambda: [table])
    assert decided.kept_N.sum() == round(250 * ratio)
    if method == SemDeDup():
        kept = sorted(key for key, keep in zip(keys, decided.kept_N, strict=True) if keep)
        assert kept == sorted(keys)[: len(kept)]


def test_neighbours_are_the_nearest_and_ties_go_to_the_lower_row() -> None:
    """Exact search equals sorting all cosines; a row is not its own neighbour, not even among copies."""
    features = with_duplicates(80, 7)
    found = nearest_neighbours(features, 5)
    wide = features.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosine = wide @ wide.T
    np.fill_diagonal(cosine, -2)
    assert found.cosine_NK == pytest.approx(-np.sort(-cosine, axis=1)[:, :5], abs=1e-12)
    assert (found.ids_NK != np.arange(80)[:, None]).all()
    plain = nearest_neighbours(unit_features(80, 16, 1), 3)
    assert (np.diff(plain.cosine_NK, axis=1) <= 0).all()


def test_an_inverted_file_finds_nearly_all_neighbours() -> None:
    """Above the exact size the graph is approximate: 95% of the neighbours of clustered rows."""
    features = np.concatenate([unit_features(60, 24, seed, spread=0.5) for seed in range(50)])
    exact = nearest_neighbours(features, 5)
    found = nearest_neighbours(features, 5, exact_rows=100)
    again = nearest_neighbours(features, 5, exact_rows=100)
    assert np.array_equal(found.ids_NK, again.ids_NK)
    same = [len(set(a) & set(b)) for a, b in zip(exact.ids_NK.tolist(), found.ids_NK.tolist(), strict=True)]
    assert sum(same) / (5 * len(features)) > 0.95


@pytest.mark.parametrize("exact_rows", [100, 20_000])
def test_a_graph_is_the_same_in_any_number_of_parts(exact_rows: int, monkeypatch) -> None:
    """Exact and approximate, more parts than blocks included; every row is in one part."""
    monkeypatch.setattr(neighbours, "SEARCH_ROWS", 128)
    features = unit_features(1000, 16, 4)
    whole = nearest_neighbours(features, 4, exact_rows=exact_rows)
    for parts in (2, 3, 9):
        found = [search_part(features, 4, part, parts, exact_rows=exact_rows) for part in range(parts)]
        assert sorted(row for part in found for row in part.rows_B.tolist()) == list(range(1000))
        joined = join_parts(found[::-1])
        assert np.array_equal(joined.ids_NK, whole.ids_NK)
        assert np.array_equal(joined.cosine_NK, whole.cosine_NK)


@given(seed=st.integers(0, 500), rows=st.integers(0, 60), k=st.integers(1, 4))
def test_the_greedy_order_is_that_of_a_slow_loop(seed: int, rows: int, k: int) -> None:
    """Ties, missing neighbours, scores below zero that grow, weights of zero: the same picks and the same numbers."""
    random = np.random.default_rng(seed)
    score = random.integers(-3, 4, rows).astype(float)
    ids = random.integers(-1, max(rows, 1), (rows, k))
    weight = random.choice([0.0, 0.5, 1.0], (rows, k))
    order, taken = greedy_order(score, ids, weight)
    left, current, expected = set(range(rows)), score.copy(), []
    while left:
        best = min(left, key=lambda row: (-current[row], row))
        left.remove(best)
        expected.append(best)
        for other, share in zip(ids[best].tolist(), weight[best].tolist(), strict=True):
            if other in left:
                current[other] -= current[best] * share
    assert order.tolist() == expected
    assert taken.tolist() == current.tolist()


def test_a_missing_neighbour_is_no_neighbour() -> None:
    """The id -1 stands for nothing: the last row is not changed by it."""
    order, taken = greedy_order(
        np.array([3.0, 2.0, 1.0]), np.array([[-1, 1], [-1, -1], [-1, -1]]), np.array([[9.0, 0.5], [9.0, 9.0], [9, 9]])
    )
    assert order.tolist() == [0, 2, 1]
    assert taken.tolist() == [3.0, 0.5, 1.0]


def test_settings_out_of_range_are_refused() -> None:
    """Each message has the value and what is allowed."""
    for build in (lambda: D2Pruning(neighbours=0), lambda: SelfFilter(neighbours=0)):
        with pytest.raises(UserError, match="neighbours is 0; it must be at least 1"):
            build()
    with pytest.raises(UserError, match="gamma_r is -1"):
        D2Pruning(gamma_r=-1)
    with pytest.raises(UserError, match="gamma is nan"):
        SelfFilter(gamma=float("nan"))
