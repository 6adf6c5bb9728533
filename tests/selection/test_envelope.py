"""Task budgets inside an envelope, against the steps of the algorithm written out in floats."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal
from raycurate.selection.envelope import Envelope, TaskBudget, task_budgets
from raycurate.selection.shares import task_shares

HALVES = st.integers(0, 8).map(lambda eighths: eighths / 8)


@st.composite
def selections(draw: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Rows of each task and what a method keeps of them alone."""
    sizes = draw(st.dictionaries(st.text("abcde", min_size=1, max_size=3), st.integers(0, 60), min_size=1, max_size=8))
    return sizes, {task: draw(st.integers(0, size)) for task, size in sizes.items()}


def budgets_of(envelope: Envelope, sizes: dict[str, int], alone: dict[str, int], **goal: Any) -> list[TaskBudget]:
    """With all rows usable."""
    shares = task_shares(sizes, sum(alone.values()), Goal(ratio=0.5, **goal)).share
    return task_budgets(envelope, shares=shares, alone=alone, usable=sizes)


def naive(envelope: Envelope, sizes: dict[str, int], alone: dict[str, int]) -> dict[str, float]:
    """Budgets before rounding: steps 1 to 3 in floats, lambda by bisection."""
    target, total = sum(alone.values()), max(sum(sizes.values()), 1)
    share = {task: target * size / total for task, size in sizes.items()}
    weight = {task: alone[task] + 2.0**-40 * share[task] for task in sizes}
    low = {task: min(sizes[task], math.floor(envelope.floor * share[task] + 1e-9)) for task in sizes}
    high = {task: min(sizes[task], math.ceil(min(envelope.cap, 1e6) * share[task] - 1e-9)) for task in sizes}

    def at(factor: float) -> dict[str, float]:
        return {task: min(max(factor * weight[task], low[task]), high[task]) for task in sizes}

    left, right = 0.0, 2.0**60
    for _ in range(300):
        middle = (left + right) / 2
        left, right = (middle, right) if sum(at(middle).values()) < target else (left, middle)
    return at(right)


@given(made=selections(), floor=HALVES, cap=st.sampled_from([1.0, 1.5, 2.0, math.inf]), part=HALVES)
def test_budgets_are_exact_and_within_their_bounds(
    made: tuple[dict[str, int], dict[str, int]], floor: float, cap: float, part: float
) -> None:
    """As many rows as the method keeps alone, each task within floor and cap, and a drawn part of each."""
    sizes, alone = made
    envelope = Envelope(floor=floor, cap=cap, random_share=part)
    budgets = budgets_of(envelope, sizes, alone)
    assert sum(budget.rows for budget in budgets) == sum(alone.values())
    assert [budget.task for budget in budgets] == sorted(sizes)
    shares = {budget.task: float(budget.share) for budget in budgets}
    expected = shares if floor == 1 else naive(envelope, sizes, alone)
    for budget in budgets:
        low, high = envelope.bounds(budget.share, budget.usable)
        assert low <= budget.rows <= high
        assert abs(budget.rows - expected[budget.task]) < 1 + 1e-6
        assert budget.drawn == round(part * budget.rows)
        if budget.bound:
            assert floor == 1 or budget.rows == (low if budget.bound == "floor" else high)


@given(made=selections(), power=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_ends_are_the_stratified_draw_and_the_method(
    made: tuple[dict[str, int], dict[str, int]], power: float
) -> None:
    """A floor of the whole share leaves nothing to the method; without bounds nothing is taken from it."""
    sizes, alone = made
    drawn = budgets_of(Envelope(floor=1.0, cap=1.0, random_share=1.0), sizes, alone, task_power=power)
    rows = task_shares(sizes, sum(alone.values()), Goal(ratio=0.5, task_power=power)).rows
    assert {budget.task: budget.rows for budget in drawn} == rows
    assert all(budget.drawn == budget.rows for budget in drawn)
    free = budgets_of(Envelope(floor=0.0, cap=math.inf, random_share=0.0), sizes, alone, task_power=power)
    assert {budget.task: budget.rows for budget in free} == alone
    assert all(budget.is_untouched and not budget.bound for budget in free)


def test_each_bound_is_named() -> None:
    """A starved task meets its floor, a favoured one its cap, a small one its rows; what is left goes by share."""
    sizes = {"big": 800, "favoured": 100, "small": 20, "starved": 80}

    def found(alone: dict[str, int]) -> dict[str, tuple[int, str]]:
        return {b.task: (b.rows, b.bound) for b in budgets_of(Envelope(), sizes, alone)}

    assert found({"big": 0, "favoured": 100, "small": 20, "starved": 0}) == {
        "big": (83, ""),
        "favoured": (24, "cap"),
        "small": (5, "cap"),
        "starved": (8, ""),
    }
    assert found({"big": 110, "favoured": 0, "small": 0, "starved": 10}) == {
        "big": (104, ""),
        "favoured": (6, "floor"),
        "small": (1, "floor"),
        "starved": (9, ""),
    }
    budgets = budgets_of(Envelope(cap=1.2), {"a": 5, "b": 50, "c": 50}, {"a": 4, "b": 6, "c": 50}, task_power=0.0)
    assert [(b.rows, b.bound) for b in budgets] == [(5, "rows"), (22, ""), (33, "cap")]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"floor": 1.5}, "floor of the envelope is 1.5; it must be from 0 to 1"),
        ({"cap": 0.5}, "cap of the envelope is 0.5; it must be 1 or more"),
        ({"cap": math.nan}, "cap of the envelope is nan"),
        ({"random_share": -1.0}, "random_share of the envelope is -1.0"),
    ],
)
def test_bounds_that_cannot_be_met_are_refused(values: dict[str, float], told: str) -> None:
    """With the value and its range."""
    with pytest.raises(UserError, match=told):
        Envelope(**values)
