"""Targets that take turns against slow loops: ties, copies, one target, blocks of validation rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.local import select_rows
from raycurate.selection.methods.targeted import Targeted
from raycurate.selection.ranked import RankedByTargets
from raycurate.selection.turns import nearest_of_targets, take_turns
from tests.selection.selection_cases import sample_keys, unit_features


def naive_turns(similarity: np.ndarray) -> list[int]:
    """Every turn looks at every row that is left."""
    left, order = set(range(similarity.shape[0])), []
    while left:
        target = len(order) % similarity.shape[1]
        best = min(left, key=lambda row: (-similarity[row, target], row))
        left.remove(best)
        order.append(best)
    return order


@given(seed=st.integers(0, 500), rows=st.integers(0, 60), targets=st.integers(1, 5))
def test_turns_are_those_of_a_slow_loop(seed: int, rows: int, targets: int) -> None:
    """Many ties; every row is taken once, and told with the likeness to the target that took it."""
    similarity = np.random.default_rng(seed).integers(0, 4, (rows, targets)) / 4
    order, value = take_turns(similarity)
    assert order.tolist() == naive_turns(similarity)
    assert value.tolist() == [similarity[row, turn % targets] for turn, row in enumerate(order.tolist())]


@given(seed=st.integers(0, 200), rows=st.integers(1, 40), shown=st.integers(1, 12), targets=st.integers(1, 4))
def test_the_nearest_validation_row_of_each_target(seed: int, rows: int, shown: int, targets: int) -> None:
    """Plain cosines in float64; blocks of validation rows merge; a target of no row is below all others."""
    random = np.random.default_rng(seed)
    features, validation = unit_features(rows, 12, seed), unit_features(shown, 12, seed + 1, spread=2.0)
    owner = random.integers(0, targets, shown)
    wide, other = features.astype(np.float64), validation.astype(np.float64)
    cosine = (wide / np.linalg.norm(wide, axis=1)[:, None]) @ (other / np.linalg.norm(other, axis=1)[:, None]).T
    expected = np.full((rows, targets), -2.0)
    for target in range(targets):
        if (owner == target).any():
            expected[:, target] = cosine[:, owner == target].max(axis=1)
    whole = nearest_of_targets(features, validation, owner, targets)
    assert whole == pytest.approx(expected, abs=1e-12)
    half = shown // 2
    parts = [
        nearest_of_targets(features, validation[at], owner[at], targets) for at in (slice(half), slice(half, None))
    ]
    assert np.maximum(*parts).tolist() == whole.tolist()


def test_rows_of_one_direction_tie() -> None:
    """Each row is also a validation row: the cosine is 1 for all of them, whatever their lengths round to."""
    features = unit_features(64, 24, 5)
    assert np.unique(nearest_of_targets(features, features, np.zeros(64, dtype=np.int64), 1)).tolist() == [1.0]


@pytest.mark.parametrize("ratio", [0.1, 0.35, 1.0])
def test_the_method_keeps_the_first_turns(ratio: float) -> None:
    """Of any ratio a prefix of the one order, exactly; rows that were not ranked are never kept."""
    similarity = np.random.default_rng(1).random((38, 3))
    made = Targeted().rank_by_targets(similarity)
    order = naive_turns(similarity)
    assert [int(made.rank_N[row]) for row in order] == list(range(38))
    table = pa.table({"key": sample_keys(40), "rank": pa.array([*made.rank_N.tolist(), None, None], pa.int64())})
    tables = SelectionTables(num_rows=40, num_usable=38)
    ((_, decided),) = select_rows(Targeted(), tables, Goal(ratio=ratio), lambda: [table])
    assert set(np.flatnonzero(decided.kept_N).tolist()) == set(order[: min(38, round(ratio * 40))])
    assert decided.reason_N[38:].tolist() == ["no_score"] * 2


def test_it_is_ranked_by_turns_and_not_by_itself() -> None:
    """The rows to choose from are no targets."""
    assert isinstance(Targeted(), RankedByTargets)
    with pytest.raises(UserError, match="targets is 'main', the rows to choose from"):
        build_selector("targeted", {"targets": "main"})
