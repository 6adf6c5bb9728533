"""Equation 4 from losses, and correlations against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from raycurate.balancing.correlation import correlate
from raycurate.balancing.measured_transferability import compare_with_proxy, measured_transferability
from raycurate.errors import UserError

NAN = float("nan")


def test_transferability_by_hand() -> None:
    """The mean fall of the loss; a pair that was not trained is not a fall of zero."""
    joint_ST = np.array([[1.0, 2.0], [2.5, NAN], [NAN, NAN]])
    measured_S, targets_S = measured_transferability(np.array([2.0, 3.0]), joint_ST)
    np.testing.assert_array_equal(measured_S, [1.0, -0.5, NAN])
    np.testing.assert_array_equal(targets_S, [2, 1, 0])


@given(
    joint=arrays(np.float64, (5, 4), elements=st.floats(0, 10) | st.just(NAN)),
    alone=arrays(np.float64, 4, elements=st.floats(0, 10)),
)
def test_transferability_is_the_naive_mean(joint: np.ndarray, alone: np.ndarray) -> None:
    """Source by source, target by target."""
    measured_S, targets_S = measured_transferability(alone, joint)
    for i in range(5):
        gains = [alone[j] - joint[i, j] for j in range(4) if joint[i, j] == joint[i, j]]
        assert targets_S[i] == len(gains)
        expected = sum(gains) / len(gains) if gains else NAN
        assert measured_S[i] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_losses_that_do_not_fit() -> None:
    """Shapes, infinities, and a target without a loss of its own."""
    for alone, joint, told in (
        ([1.0], [[1.0, 2.0]], "do not fit"),
        ([1.0, 2.0], [[1.0, float("inf")]], "infinite"),
        ([1.0, NAN], [[1.0, 2.0]], "target 1 has losses of pairs and no loss of its own"),
    ):
        with pytest.raises(UserError, match=told):
            measured_transferability(np.array(alone), np.array(joint))


def test_a_source_without_pairs_is_left_out_of_the_correlation() -> None:
    """The proxy of a source that was not measured cannot change the figure."""
    rng = np.random.default_rng(0)
    joint_ST, proxy_S = rng.random((6, 3)), rng.random(6)
    joint_ST[2] = NAN
    found = compare_with_proxy(np.ones(3), joint_ST, proxy_S)
    rest = np.arange(6) != 2
    assert found.pearson.value == pytest.approx(stats.pearsonr(1 - joint_ST[rest].mean(axis=1), proxy_S[rest])[0])
    proxy_S[2] = 1e6
    again = compare_with_proxy(np.ones(3), joint_ST, proxy_S)
    assert (again.pearson, again.spearman) == (found.pearson, found.spearman)
    with pytest.raises(UserError, match="6 sources have losses, but the proxy has shape"):
        compare_with_proxy(np.ones(3), joint_ST, proxy_S[:5])


FEW = st.integers(-3, 3).map(float)  # with ties


@given(x=arrays(np.float64, 7, elements=FEW), y=arrays(np.float64, 7, elements=FEW))
def test_coefficients_are_those_of_scipy(x: np.ndarray, y: np.ndarray) -> None:
    """Ties and all; the interval is ordered and inside -1 to 1."""
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    pearson, spearman = correlate(x, y, resamples=50)
    assert pearson.value == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
    assert spearman.value == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    for found in (pearson, spearman):
        assert -1 <= found.low <= found.high <= 1


def test_interval_is_the_percentile_bootstrap() -> None:
    """Near scipy's on the same data, narrower for a lower level, and the same for the same seed."""
    rng = np.random.default_rng(5)
    x_N = rng.standard_normal(60)
    y_N = x_N + rng.standard_normal(60)
    pearson, spearman = correlate(x_N, y_N, resamples=4000, level=0.9, seed=1)
    by_scipy = stats.bootstrap(
        (x_N, y_N), lambda x, y: stats.pearsonr(x, y)[0], paired=True, vectorized=False, n_resamples=2000,
        confidence_level=0.9, method="percentile", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert (pearson.low, pearson.high) == pytest.approx(tuple(by_scipy), abs=0.02)
    assert pearson.low < pearson.value < pearson.high
    assert (pearson, spearman) == correlate(x_N, y_N, resamples=4000, level=0.9, seed=1)
    narrow, _ = correlate(x_N, y_N, resamples=4000, level=0.5, seed=1)
    assert pearson.low < narrow.low < narrow.high < pearson.high
    assert pearson.undefined == 0


def test_constant_values_have_no_correlation() -> None:
    """Undefined is None and counted, not zero; few distinct values leave out the resamples that are constant."""
    pearson, spearman = correlate(np.full(5, 0.1), np.arange(5.0), resamples=20)
    assert (pearson.value, pearson.low, pearson.high, spearman.value) == (None, None, None, None)
    assert str(pearson) == "none"
    assert pearson.undefined == 20
    few, _ = correlate(np.array([0.1, 0.1, 0.1, 0.7]), np.array([1.0, 2.0, 3.0, 4.0]), resamples=500)
    assert 500 * 0.2 < few.undefined < 500 * 0.45  # (3/4)^4 = 0.32
    assert np.isfinite([few.value, few.low, few.high]).all()


def test_equal_numbers_say_why_there_is_no_correlation() -> None:
    """All trainings alike, or all sources alike to the proxy: the numbers that are equal are named."""
    alike, varied = np.full((4, 2), 1.0), np.arange(8.0).reshape(4, 2)
    told = compare_with_proxy(np.ones(2), alike, np.arange(4.0)).why_none
    assert told == "all 4 values of T are 0: equal numbers have no correlation"
    told = compare_with_proxy(np.ones(2), varied, np.full(4, 0.25)).why_none
    assert told == "all 4 values of S are 0.25: equal numbers have no correlation"
    assert compare_with_proxy(np.ones(2), varied, np.arange(4.0)).why_none is None


def test_correlations_that_cannot_be() -> None:
    """Too few pairs, unequal lengths, values that are not finite, levels outside 0 to 1."""
    three = np.arange(3.0)
    for x, y, more, told in (
        (three[:2], three[:2], {}, "at least 3 pairs, got 2"),
        (three, three[:2], {}, "equal length"),
        (three, np.array([1.0, NAN, 2.0]), {}, "finite"),
        (three, three, {"level": 1.0}, "level 1.0"),
        (three, three, {"resamples": 0}, "resamples 0"),
    ):
        with pytest.raises(UserError, match=told):
            correlate(x, y, **more)
