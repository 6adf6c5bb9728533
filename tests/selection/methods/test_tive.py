"""TIVE against all pairs, float budgets and a draw by sorting; what the published q does; inside an envelope."""

from __future__ import annotations

import math
from collections import Counter
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
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.methods.tive import Tive, gumbel
from tests.selection import naive_tive
from tests.selection.selection_cases import in_blocks, kept_keys, sample_keys, unit_features


def sum_of(method: Tive, features: np.ndarray) -> dict[str, np.ndarray]:
    """What is added up of some rows."""
    return method.rank_sum(features, np.ones(len(features)))


def values_of(method: Tive, features: np.ndarray) -> np.ndarray:
    """The value of each row of one task."""
    fitted = method.rank_fit(sum_of(method, features), len(features))
    return method.rank_value(features, np.ones(len(features)), fitted)


def case(seed: int, rows: int, tasks: int) -> tuple[pa.Table, np.ndarray]:
    """Rows of unequal tasks with many equal norms; some without a gradient."""
    random = np.random.default_rng(seed)
    features = unit_features(rows, 12, seed)
    names = [f"t{int(t)}" for t in random.integers(0, tasks, rows) ** 2 // max(tasks - 1, 1)]
    method, value = Tive(), np.zeros(rows)
    for name in set(names):
        at = np.array([i for i in range(rows) if names[i] == name])
        value[at] = values_of(method, features[at])
    lost = random.random(rows) < 0.15
    table = pa.table(
        {
            "key": sample_keys(rows, seed),
            "task": names,
            "value": pa.array(value, mask=lost),
            "gradient_norm": pa.array(random.choice([0.25, 0.5, 3.0], rows).astype(np.float32), mask=lost),
        }
    )
    return table, features


def tables_of(rows: pa.Table) -> SelectionTables:
    """What `ingest` counts."""
    return SelectionTables(num_rows=rows.num_rows, tasks=dict(Counter(rows["task"].to_pylist())))


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 60), tasks=st.integers(1, 5))
def test_values_are_those_of_all_pairs_in_any_division(seed: int, rows: int, tasks: int) -> None:
    """Sums of blocks add up to the same bits; the mean product with the task's rows, within the grid."""
    table, features = case(seed, rows, tasks)
    names, method = table["task"].to_pylist(), Tive()
    expected = naive_tive.values(features, names)
    at = np.array([i for i in range(rows) if names[i] == names[0]])
    whole = sum_of(method, features[at])["sum"]
    mixed = np.array_split(np.random.default_rng(1).permutation(at), 3)
    assert np.array_equal(whole, sum(sum_of(method, features[part])["sum"] for part in mixed))
    found = values_of(method, features[at])
    assert found == pytest.approx([expected[i] for i in at], abs=1e-7)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    tasks=st.integers(1, 5),
    ratio=st.sampled_from([0.05, 0.3, 0.8, 1.0]),
    q=st.sampled_from([0.0, 0.001, 30.0, math.inf]),
    power=st.sampled_from([1, 2]),
)
def test_it_keeps_the_rows_of_its_formula(seed, rows, tasks, ratio, q, power) -> None:
    """Budgets by task, capped by what it has; for any blocks in any order."""
    table, _ = case(seed, rows, tasks)
    usable = table["value"].is_valid().to_pylist()
    selector, goal = build_selector("tive", {"q": q, "power": power}), Goal(ratio=ratio, seed=seed % 3)
    if not any(usable):
        with pytest.raises(UserError, match="has a gradient"):
            kept_keys(selector, tables_of(table), goal, [table])
        return
    keys, names, norms = (table[name].to_pylist() for name in ("key", "task", "gradient_norm"))
    quota = naive_tive.budgets(norms, names, usable, goal.target(rows), power)
    hashes = key_hashes(key_array(table["key"]), seed=goal.seed, purpose="gumbel").tolist()
    expected = naive_tive.kept(keys, names, table["value"].to_pylist(), usable, quota, q, hashes)
    assert kept_keys(selector, tables_of(table), goal, [table]) == expected
    assert kept_keys(selector, tables_of(table), goal, in_blocks(table, 7, seed)) == expected


def test_the_published_q_is_a_draw_and_larger_ones_are_not() -> None:
    """At 0.001 the kept rows' mean value is that of all rows; at 300 it is above; each is kept with its probability."""
    table, _ = case(5, 400, 1)
    held = table.filter(table["value"].is_valid())
    value = dict(zip(held["key"].to_pylist(), held["value"].to_pylist(), strict=True))
    spread = float(np.std(list(value.values())))

    def mean(q: float) -> float:
        drawn = [
            np.mean([value[key] for key in kept_keys(Tive(q=q), tables_of(table), Goal(ratio=0.2, seed=s), [table])])
            for s in range(20)
        ]
        return (float(np.mean(drawn)) - float(np.mean(list(value.values())))) / spread

    assert abs(mean(0.001)) < 0.1
    assert abs(mean(0.001) - mean(0.0)) < 0.01
    assert mean(300.0) > 0.4
    assert mean(math.inf) > mean(300.0)


def test_the_first_of_a_draw_has_the_probability_of_a_softmax() -> None:
    """Over many seeds the largest place is each row's as often as exp(q s) says."""
    value, q, draws = np.array([0.1, 0.4, 0.5, 0.9]), 3.0, 4000
    keys = key_array(pa.array(sample_keys(4)))
    first = Counter(
        int(np.argmax(q * value + gumbel(key_hashes(keys, seed=seed, purpose="gumbel")))) for seed in range(draws)
    )
    share = np.exp(q * value) / np.exp(q * value).sum()
    for row, expected in enumerate(share):
        assert abs(first[row] / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize("q", [0.001, math.inf])
def test_inside_an_envelope(q: float) -> None:
    """Without bounds and draw its own rows; within them exact budgets, the same for any blocks."""
    table, _ = case(8, 200, 4)
    tables, goal, method = tables_of(table), Goal(ratio=0.3, seed=1), Tive(q=q)
    alone = kept_keys(method, tables, goal, [table])
    free = Enveloped(method=method, envelope=Envelope(floor=0.0, cap=math.inf, random_share=0.0))
    assert kept_keys(free, tables, goal, in_blocks(table, 31)) == alone
    within = Enveloped(method=method, envelope=Envelope())
    kept = kept_keys(within, tables, goal, [table])
    assert kept == kept_keys(within, tables, goal, in_blocks(table, 13))
    assert len(kept) == 60
    smaller = kept_keys(method, tables, replace(goal, ratio=0.2), [table])
    assert len(smaller - alone) < 0.1 * len(smaller)  # nested but for the rounding of budgets


def test_what_it_does_not_have_is_told() -> None:
    """Several tasks without their rows; options that are none."""
    with pytest.raises(UserError, match="measures its tasks"):
        Tive().plan(SelectionTables(num_rows=3, tasks={"a": 2, "b": 1}), Goal(ratio=0.5))
    with pytest.raises(UserError, match="q is -1"):
        build_selector("tive", {"q": -1})
    with pytest.raises(UserError, match="option 'power' of method 'tive' is 3"):
        build_selector("tive", {"power": 3})
