from __future__ import annotations

import math

import pytest

from raycurate.selection.diversity import task_diversity, top_tasks


def test_equal_tasks_are_worth_their_number() -> None:
    """Four tasks alike have entropy ln 4."""
    found = task_diversity(dict.fromkeys("abcd", 5))
    assert (found.rows, found.tasks) == (20, 4)
    assert found.entropy == pytest.approx(math.log(4))
    assert found.effective_tasks == pytest.approx(4)
    assert found.largest_share == 0.25


def test_one_task_and_none() -> None:
    """One task is worth one; no rows are worth none."""
    one = task_diversity({"a": 7, "b": 0})
    assert (one.tasks, one.entropy, one.effective_tasks) == (1, 0.0, 1.0)
    none = task_diversity({})
    assert (none.rows, none.tasks, none.entropy, none.effective_tasks, none.largest_share) == (0, 0, 0.0, 0.0, 0.0)


def test_top_tasks_break_ties_by_name() -> None:
    """Largest first, then by name; tasks without rows are left out."""
    assert top_tasks({"b": 2, "a": 2, "c": 9, "d": 0}) == [("c", 9), ("a", 2), ("b", 2)]
