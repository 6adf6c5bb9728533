"""Exact division of a target among groups within bounds, against a bisection in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raycurate.selection.apportion import ABOVE, BELOW, apportion


@st.composite
def problems(draw: Any) -> tuple[list[float], int, list[int], list[int]]:
    """Weights, target, high, low; some weights tie, some are zero or tiny."""
    groups = draw(st.integers(1, 9))
    weight = st.one_of(st.integers(0, 6), st.floats(0, 1e3), st.sampled_from([1e-300, 0.5, 1e12]))
    weights = draw(st.lists(weight, min_size=groups, max_size=groups))
    high = draw(st.lists(st.integers(0, 40), min_size=groups, max_size=groups))
    low = [draw(st.integers(0, most)) for most in high]
    return weights, draw(st.integers(sum(low), sum(high))), high, low


def bisected(weights: list[float], target: int, high: list[int], low: list[int]) -> list[Fraction]:
    """clip(lambda w, low, high) by halving an interval of lambda, for positive weights."""
    exact = [Fraction(weight) for weight in weights]

    def shares(factor: Fraction) -> list[Fraction]:
        return [min(max(factor * w, Fraction(a)), Fraction(b)) for w, a, b in zip(exact, low, high, strict=True)]

    left, right = Fraction(0), Fraction(1)
    while sum(shares(right)) < target:
        right *= 2
    for _ in range(200):
        middle = (left + right) / 2
        left, right = (middle, right) if sum(shares(middle)) < target else (left, middle)
    return shares(right)


@given(problem=problems())
def test_rows_add_up_within_the_bounds(problem: tuple[list[float], int, list[int], list[int]]) -> None:
    """The sum is exact, no bound is broken, and no group is a whole row away from its share."""
    weights, target, high, low = problem
    made = apportion(weights, target, high, low)
    assert sum(made.rows) == target
    assert sum(made.shares) == target
    for rows, share, most, least, clipped in zip(made.rows, made.shares, high, low, made.clipped, strict=True):
        assert least <= rows <= most
        assert abs(rows - share) < 1
        assert clipped not in (ABOVE, BELOW) or rows == (most if clipped == ABOVE else least)


@given(problem=problems())
def test_shares_are_those_of_a_common_factor(problem: tuple[list[float], int, list[int], list[int]]) -> None:
    """As slow halving of an interval finds them."""
    weights, target, high, low = problem
    weights = [1.0 if weight < 1e-9 else weight for weight in weights]
    expected = bisected(weights, target, high, low)
    for found, wanted in zip(apportion(weights, target, high, low).shares, expected, strict=True):
        assert abs(found - wanted) < Fraction(1, 10**6)


@given(problem=problems())
def test_more_weight_never_gives_fewer_rows(problem: tuple[list[float], int, list[int], list[int]]) -> None:
    """Of two groups with the same bounds the heavier has at least as many rows; of equals the first."""
    weights, target, high, low = problem
    rows = apportion(weights, target, high, low).rows
    for a in range(len(rows)):
        for b in range(a + 1, len(rows)):
            if (high[a], low[a]) == (high[b], low[b]) and weights[a] >= weights[b]:
                assert rows[a] >= rows[b]


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=8), target=st.integers(0, 200))
def test_without_bounds_it_is_the_method_of_largest_remainders(weights: list[int], target: int) -> None:
    """Floors, then one row each in the order of the remainders, ties to the first."""
    total = sum(weights)
    expected = [target * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda g: (-(target * weights[g] % total), g))
    for group in by_remainder[: target - sum(expected)]:
        expected[group] += 1
    assert list(apportion(weights, target, [target] * len(weights)).rows) == expected


def test_weights_of_zero_take_what_nobody_else_can() -> None:
    """They get their least, and the rest only where all others are full."""
    assert apportion([0, 1], 3, [9, 5], [1, 0]).rows == (1, 2)
    assert apportion([0, 0, 1], 8, [6, 3, 2]).rows == (4, 2, 2)
    assert apportion([], 0, []).rows == ()


@given(problem=problems())
def test_an_impossible_target_is_no_target(problem: tuple[list[float], int, list[int], list[int]]) -> None:
    """The caller must not ask for more than there is, nor for less than the least."""
    weights, _, high, low = problem
    for target in (sum(high) + 1, sum(low) - 1):
        assume(not sum(low) <= target <= sum(high))
        with pytest.raises(AssertionError, match="is not within"):
            apportion(weights, target, high, low)
