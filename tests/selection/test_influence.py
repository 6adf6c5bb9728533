"""Influence of rows on targets against means over all pairs; votes with ties."""

from __future__ import annotations

import numpy as np
import pytest

from raycurate.errors import UserError
from raycurate.selection import build_selector
from raycurate.selection.influence import TargetMeans, votes
from raycurate.selection.methods.icons import Icons
from raycurate.selection.methods.less import Less
from tests.selection.selection_cases import unit_features


def test_influence_is_the_mean_over_all_pairs_in_any_division() -> None:
    """The same bits from one block of validation rows or many in another order; 0 for a target without rows."""
    rows, shown = unit_features(30, 12, 1), unit_features(17, 12, 2)
    target = np.arange(17) % 3
    whole, parts = TargetMeans(4, 12), TargetMeans(4, 12)
    whole.add(shown, target)
    for part in np.array_split(np.random.default_rng(0).permutation(17), 5):
        parts.add(shown[part], target[part])
    found = whole.cosines(rows)
    assert np.array_equal(found, parts.cosines(rows))
    wide, other = rows.astype(np.float64), shown.astype(np.float64)
    expected = [[np.mean([row @ v for v in other[target == t]]) for t in range(3)] for row in wide]
    assert found[:, :3] == pytest.approx(np.array(expected), abs=1e-7)
    assert not found[:, 3].any()


def test_votes_are_counted_with_ties() -> None:
    """All rows at the bound get the vote; a part that is less than one row is one row."""
    influence = np.array([[0.5, 0.1], [0.5, 0.9], [0.2, 0.3], [0.5, 0.2], [0.1, 0.2]])
    assert votes(influence, 0.2).tolist() == [1, 2, 0, 1, 0]
    assert votes(influence, 0.01).tolist() == [1, 2, 0, 1, 0]
    assert votes(influence, 0.8).tolist() == [1, 2, 2, 2, 1]
    assert votes(np.zeros((0, 2)), 0.2).tolist() == []


def test_ties_go_to_the_larger_influence_and_the_lower_key() -> None:
    """One target that counts for LESS may be one of several for ICONS."""
    influence = np.array([[0.1, 0.9], [0.6, 0.6], [0.6, 0.6], [0.8, 0.0], [0.0, 0.0]])
    assert np.argsort(Less().rank_by_targets(influence).rank_N).tolist() == [0, 3, 1, 2, 4]
    made = Icons(vote_share=0.6).rank_by_targets(influence)
    assert made.value_N.tolist() == [1.0, 2.0, 2.0, 1.0, 0.0]
    assert np.argsort(made.rank_N).tolist() == [1, 2, 0, 3, 4]


def test_what_cannot_be_is_told() -> None:
    """The rows to choose from are no targets."""
    with pytest.raises(UserError, match="targets is 'main'"):
        build_selector("less", {"targets": "main"})
    with pytest.raises(UserError, match="vote_share is 0"):
        build_selector("icons", {"vote_share": 0})
