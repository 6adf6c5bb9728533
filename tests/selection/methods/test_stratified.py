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
from raycurate.selection.methods.stratified import Stratified, proportional_quotas
from tests.selection.selection_cases import sample_keys


@given(
    sizes=st.dictionaries(st.text(max_size=4), st.integers(0, 10_000), min_size=1, max_size=12),
    ratio=st.floats(0.001, 1),
)
def test_quotas_are_proportional_and_exact(sizes: dict[str, int], ratio: float) -> None:
    """Within one row of the exact share, never above the task, and the target in all."""
    total = sum(sizes.values())
    if total == 0:
        return
    target = round(ratio * total)
    quotas = proportional_quotas(sizes, target)
    assert sum(quotas.values()) == target
    for task, size in sizes.items():
        assert abs(quotas[task] - target * size / total) < 1
        assert quotas[task] <= size


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
