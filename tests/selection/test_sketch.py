"""The sketched MMD^2 is the exact one within its stated error, and does not depend on the division of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection.sketch import frequencies, sketch_rows, squared_mmd, sum_sketches
from tests.selection.selection_cases import unit_features


def naive_squared_mmd(one: np.ndarray, other: np.ndarray, sigma: float) -> float:
    """All pairs in float64."""

    def mean_kernel(left: np.ndarray, right: np.ndarray) -> float:
        distance = ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)
        return float(np.exp(-distance / (2 * sigma**2)).mean())

    one, other = one.astype(np.float64), other.astype(np.float64)
    return mean_kernel(one, one) + mean_kernel(other, other) - 2 * mean_kernel(one, other)


@pytest.mark.parametrize(("sigma", "kept"), [(1.0, 15), (1.0, 120), (0.5, 60), (2.0, 240)])
def test_the_estimate_is_the_naive_value_within_its_error(sigma, kept):
    """Against all pairs, a lopsided subset: within four standard errors, which are a few per cent."""
    rows = np.concatenate([unit_features(200, 48, 1), unit_features(100, 48, 2, spread=1.0)])
    sums = [sum_sketches(sketch_rows(part, frequencies(48, 4096, 7), sigma)) for part in (rows, rows[:kept])]
    found, exact = squared_mmd(*sums), naive_squared_mmd(rows, rows[:kept], sigma)
    assert found is not None
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < 0.05 * exact


@given(st.lists(st.integers(0, 90), max_size=4), st.integers(0, 2**32))
def test_any_division_of_the_rows_adds_up_to_the_same_sum(cuts, seed):
    """Blocks of any size, each sketched on its own: the same integers."""
    rows = unit_features(90, 12, seed)
    frequency = frequencies(12, 8, 0)
    whole = sum_sketches(sketch_rows(rows, frequency))
    parts = [sum_sketches(sketch_rows(part, frequency)) for part in np.split(rows, sorted(cuts))]
    joined = sum(parts[1:], parts[0])
    assert joined.rows == whole.rows
    assert (joined.total_F == whole.total_F).all()


def test_edges():
    """Nothing kept has no distance, everything kept has none left, a width of zero is refused."""
    rows = unit_features(40, 12, 3)
    frequency = frequencies(12, 16, 0)
    whole = sum_sketches(sketch_rows(rows, frequency))
    assert squared_mmd(whole, sum_sketches(sketch_rows(rows[:0], frequency))) is None
    same = squared_mmd(whole, whole)
    assert same is not None
    assert same.value == 0
    with pytest.raises(UserError, match="sigma is 0"):
        sketch_rows(rows, frequency, 0.0)
