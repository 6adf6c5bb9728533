from __future__ import annotations

import collections

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables
from raycurate.selection.local import select_rows
from raycurate.selection.methods.stratified import Stratified
from tests.selection.selection_cases import sample_keys


@given(
    sizes=st.dictionaries(st.text(max_size=4), st.integers(0, 10_000), min_size=1, max_size=12),
    ratio=st.floats(0.001, 1),
)
def test_quotas_are_proportional_and_exact(sizes: dict[str, int], ratio: float) -> None:
    """Floors, and a row more for the largest remainders, ties to the task that sorts first."""
    total = sum(sizes.values())
    if total == 0:
        return
    target = round(ratio * total)
    plan = Stratified().plan(SelectionTables(num_rows=total, tasks=sizes), Goal(ratio=ratio))
    expected = {task: target * size // total for task, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda task: (-(target * sizes[task] % total), task))
    for task in by_remainder[: target - sum(expected.values())]:
        expected[task] += 1
    assert dict(zip(plan.groups.to_pylist(), plan.quota_G.tolist(), strict=True)) == expected


def test_a_power_and_weights_move_the_shares() -> None:
    """Equal shares until a small task is used up; weights on top."""
    tables = SelectionTables(num_rows=100, tasks={"big": 80, "mid": 16, "small": 4})
    for goal, quotas in (
        (Goal(ratio=0.3, task_power=0.0), [13, 13, 4]),
        (Goal(ratio=0.3, task_power=0.5), [18, 8, 4]),
        (Goal(ratio=0.3, task_power=0.0, task_weights={"big": 1.0, "mid": 2.0, "small": 0.5}), [10, 16, 4]),
    ):
        assert Stratified().plan(tables, goal).quota_G.tolist() == quotas


def test_each_task_gives_its_share_for_any_blocks() -> None:
    """Exact counts by task, from blocks in any order."""
    tasks = ["vqa"] * 60 + ["ocr"] * 30 + ["chat"] * 10
    table = pa.table({"key": sample_keys(100), "task": tasks}).take(np.random.default_rng(1).permutation(100))
    tables = SelectionTables(num_rows=100, tasks=collections.Counter(tasks))
    for block in (7, 100):
        blocks = [table.slice(start, block) for start in range(0, 100, block)]
        kept = collections.Counter(
            task
            for rows, decisions in select_rows(Stratified(), tables, Goal(ratio=0.2), lambda parts=blocks: parts)
            for task, keep in zip(rows["task"].to_pylist(), decisions.kept_N, strict=True)
            if keep
        )
        assert kept == {"vqa": 12, "ocr": 6, "chat": 2}


def test_tables_that_do_not_add_up_are_user_errors() -> None:
    """Every row needs a task."""
    with pytest.raises(UserError, match="no tasks for 5 rows"):
        Stratified().plan(SelectionTables(num_rows=5), Goal(ratio=0.2))
    with pytest.raises(UserError, match="tasks of 4 rows for 5 rows"):
        Stratified().plan(SelectionTables(num_rows=5, tasks={"a": 4}), Goal(ratio=0.2))
