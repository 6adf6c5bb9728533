from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection import exact
from tests.selection.selection_cases import unit_features


@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_dots_do_not_depend_on_the_order_of_columns(seed: int, dtype: type) -> None:
    """Any order of summation gives the same bits."""
    rows = unit_features(9, 64, seed).astype(dtype)
    mixed = np.random.default_rng(seed).permutation(64)
    assert (exact.dots(rows, rows[:5]) == exact.dots(rows[:, mixed], rows[:5][:, mixed])).all()


def test_dots_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Column tiles of any width give the same bits, and the values are the inner products."""
    rows = unit_features(20, 96, 3)
    whole = exact.dots(rows, rows)
    monkeypatch.setattr(exact, "TILE_COLUMNS", 7)
    assert (exact.dots(rows, rows.copy()) == whole).all()
    assert np.abs(whole - rows.astype(np.float64) @ rows.astype(np.float64).T).max() < 1e-15


def test_half_precision_rows_are_on_the_grid_already() -> None:
    """Stored features are not changed by the grid."""
    rows = unit_features(50, 40, 1)
    assert (exact.on_grid(rows) == rows.astype(np.float64)).all()
    assert (np.rint(exact.on_grid(rows) * exact.GRID) == exact.on_grid(rows) * exact.GRID).all()
