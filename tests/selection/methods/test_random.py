from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection import Goal, SelectionTables
from raycurate.selection.local import select_rows
from raycurate.selection.methods.random import Random
from tests.selection.selection_cases import sample_keys


def _kept(rows: pa.Table, goal: Goal, block: int) -> list[str]:
    tables = SelectionTables(num_rows=rows.num_rows)
    blocks = [rows.slice(start, block) for start in range(0, rows.num_rows, block)]
    return [
        key
        for part, decisions in select_rows(Random(), tables, goal, lambda: blocks)
        for key, keep in zip(part["key"].to_pylist(), decisions.kept_N, strict=True)
        if keep
    ]


@given(rows=st.integers(1, 400), ratio=st.floats(0.01, 1), seed=st.integers(-5, 2**70), block=st.integers(1, 100))
def test_exactly_the_target_for_any_blocks(rows: int, ratio: float, seed: int, block: int) -> None:
    """round(ratio N) rows, the same for any order and division."""
    table = pa.table({"key": sample_keys(rows)})
    goal = Goal(ratio=ratio, seed=seed)
    kept = _kept(table, goal, block)
    assert len(kept) == round(ratio * rows)
    mixed = table.take(np.random.default_rng(0).permutation(rows))
    assert set(_kept(mixed, goal, rows)) == set(kept)


def test_seeds_differ_and_ratios_nest() -> None:
    """Another seed is another draw; a larger ratio adds rows."""
    table = pa.table({"key": sample_keys(1000)})
    small, large = (set(_kept(table, Goal(ratio=ratio, seed=1), 300)) for ratio in (0.2, 0.5))
    assert small < large
    other = set(_kept(table, Goal(ratio=0.2, seed=2), 300))
    assert len(small & other) == pytest.approx(40, abs=20)


def test_reasons_and_scores() -> None:
    """The score is the hash: every kept row is below every dropped one."""
    table = pa.table({"key": sample_keys(50)})
    ((_, decisions),) = select_rows(Random(), SelectionTables(num_rows=50), Goal(ratio=0.5), lambda: [table])
    assert set(decisions.reason_N.tolist()) == {"drawn", "not_drawn"}
    assert decisions.score_N[decisions.kept_N].max() < decisions.score_N[~decisions.kept_N].min()
