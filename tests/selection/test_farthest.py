"""Farthest points against a loop that compares everything at each step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection.farthest import farthest_order
from tests.selection.naive_dics import farthest
from tests.selection.selection_cases import unit_features


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 60), copies=st.integers(1, 3), part=st.floats(0, 1))
def test_the_order_is_that_of_comparing_everything(seed: int, rows: int, copies: int, part: float) -> None:
    """Copies of rows, and ties between them, come by row number; a part of the order is its beginning."""
    features = np.repeat(unit_features(rows, 8, seed), copies, axis=0)
    features = features[np.random.default_rng(seed).permutation(len(features))]
    whole = farthest(features, len(features))
    assert farthest_order(features, len(features)).tolist() == whole
    count = int(part * len(features))
    assert farthest_order(features, count).tolist() == whole[:count]


@pytest.mark.parametrize(("block", "tile"), [(1, 1), (3, 5), (1000, 1000)])
def test_blocks_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int, tile: int) -> None:
    """However the comparisons are cut."""
    features = unit_features(120, 16, 3)
    monkeypatch.setattr("raycurate.selection.farthest.BLOCK_ROWS", block)
    monkeypatch.setattr("raycurate.selection.farthest.TILE_ROWS", tile)
    assert farthest_order(features, 120).tolist() == farthest(features, 120)
