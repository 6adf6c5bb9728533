"""Random subsets: exact in size, in proportion, nested."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.experiments.engine.subsets import proportional_rows

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1)


@given(sizes=SIZES, data=st.data())
def test_subsets_are_exact_proportional_and_nested(sizes, data):
    """Any two sizes: their rows sum up, no task is two rows or more from its share, the smaller lies in the larger."""
    total = sum(sizes.values())
    small, large = sorted((data.draw(st.integers(1, total)), data.draw(st.integers(1, total))))
    few, many = proportional_rows(sizes, small), proportional_rows(sizes, large)
    assert (sum(few.values()), sum(many.values())) == (small, large)
    assert all(count <= many[task] for task, count in few.items())
    assert all(0 < count <= sizes[task] for task, count in many.items())
    for task, size in sizes.items():
        assert abs(few.get(task, 0) - small * size / total) < 1 + len(sizes) / 2


def test_more_rows_than_there_are_is_told():
    """Both numbers are in the message."""
    with pytest.raises(UserError, match=r"11 rows are asked for, and 10 can be trained on"):
        proportional_rows({"a": 6, "b": 4}, 11)
