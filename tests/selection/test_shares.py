"""Shares of tasks by size, power and weight."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal
from raycurate.selection.shares import task_shares

SIZES = st.dictionaries(st.text(max_size=4), st.integers(0, 10_000), min_size=1, max_size=12)


@given(sizes=SIZES, ratio=st.floats(0.001, 1), power=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_rows_are_exact_for_every_power(sizes: dict[str, int], ratio: float, power: float) -> None:
    """The target in all, never above a task, and every rounding is of less than a row."""
    target = round(ratio * sum(sizes.values()))
    made = task_shares(sizes, target, Goal(ratio=ratio, task_power=power))
    assert sum(made.rows.values()) == target
    for task, size in sizes.items():
        assert made.rows[task] <= size
        assert abs(made.rows[task] - made.share[task]) < 1


def test_the_power_goes_from_the_mix_of_the_data_to_all_alike() -> None:
    """1 is proportional, 0.5 the square root, 0 equal; what a task lacks goes to the others."""
    sizes = {"a": 10_000, "b": 2_500, "c": 100}
    rows = {power: task_shares(sizes, 1_260, Goal(ratio=0.1, task_power=power)).rows for power in (1.0, 0.5, 0.0)}
    assert rows[1.0] == {"a": 1_000, "b": 250, "c": 10}
    assert rows[0.5] == {"a": 787, "b": 394, "c": 79}  # 100 : 50 : 10
    assert rows[0.0] == {"a": 580, "b": 580, "c": 100}


def test_weights_multiply_shares_as_decimal_numbers() -> None:
    """Three tenths against one tenth is three to one, to the last row; a full task passes its share on."""
    goal = Goal(ratio=0.5, task_weights={"a": 0.3, "b": 0.1})
    assert task_shares({"a": 40, "b": 40}, 40, goal).share == {"a": Fraction(30), "b": Fraction(10)}
    assert task_shares({"a": 20, "b": 60}, 40, goal).rows == {"a": 20, "b": 20}
    assert task_shares({"a": 20, "b": 60}, 40, goal, usable={"a": 5, "b": 60}).rows == {"a": 5, "b": 35}


@pytest.mark.parametrize("power", [-0.1, 1.5])
def test_a_power_outside_of_its_range_is_refused(power: float) -> None:
    """With the value and what the ends mean."""
    with pytest.raises(UserError, match=f"task_power is {power}; it must be from 0"):
        Goal(ratio=0.2, task_power=power)
