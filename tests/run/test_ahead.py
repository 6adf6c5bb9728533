"""Calls under way ahead of the one that is wanted."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.run.ahead import map_ahead


@given(items=st.lists(st.integers(), max_size=30), calls=st.integers(1, 5))
def test_results_come_in_the_order_of_the_items(items, calls):
    """However many calls are under way."""
    assert list(map_ahead(str, items, calls)) == [str(item) for item in items]


def test_calls_run_together_and_no_more_than_asked_for():
    """Three wait for each other, which two could not; items beyond them are not taken until a result is."""
    taken, together = [], threading.Barrier(3, timeout=30)

    def items():
        for item in range(9):
            taken.append(item)
            yield item

    def call(item):
        if item < 3:
            together.wait()
        return item

    results = map_ahead(call, items(), 3)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert list(results) == list(range(1, 9))


def test_an_error_is_raised_where_its_result_is_due():
    """What comes before it is given out, what comes after it is not begun."""
    called = []

    def call(item):
        called.append(item)
        return 1 // item

    results = map_ahead(call, [1, 1, 0, 1, 1, 1], 2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(called) <= 4
