"""A method over the rows that remain: as the method on a dataset of those rows alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection.base import Goal, SelectionTables
from raycurate.selection.cells import CellTable, add_counts, count_cells
from raycurate.selection.envelope import Envelope
from raycurate.selection.enveloped import Enveloped
from raycurate.selection.local import make_plan
from raycurate.selection.methods.balanced import Balanced
from raycurate.selection.methods.coincide import Coincide
from raycurate.selection.methods.random import Random
from raycurate.selection.methods.stratified import Stratified
from raycurate.selection.remaining import Remaining, remaining_goal, remaining_tables
from tests.selection.selection_cases import clustered_case

CASE = clustered_case(2, rows=80, clusters=4)
TABLES, ROWS = CASE.tables_and_rows(1.0)
TASKS = [f"task {'aab'[i % 3]}" for i in range(80)]
ROWS = ROWS.append_column("task", pa.array(TASKS))


def _with_ranks_of(rows: pa.Table, by: list[str]) -> pa.Table:
    """The rows with their ranks counted anew within the groups of some columns."""
    groups = list(zip(*(rows[name].to_pylist() for name in by), strict=True))
    old = rows["rank"].to_pylist()
    rank = [
        sum(g == group and r < own for g, r in zip(groups, old, strict=True))
        for group, own in zip(groups, old, strict=True)
    ]
    return rows.set_column(rows.schema.get_field_index("rank"), "rank", pa.array(rank))


def _tables(rows: pa.Table) -> SelectionTables:
    cells = add_counts([count_cells(rows)])
    whole = SelectionTables(num_rows=80, tasks=Counter(TASKS), clusters=TABLES.clusters, cells=CellTable.of(cells))
    return remaining_tables(whole, Counter(rows["task"].to_pylist()), cells)


def _kept(selector, tables: SelectionTables, goal: Goal, rows: pa.Table, blocks: int) -> list[str]:
    parts = [rows.slice(at[0], len(at)) for at in np.array_split(np.arange(rows.num_rows), blocks) if len(at)]
    plan = make_plan(selector, tables, goal, lambda function: (function(part) for part in parts))
    return [
        key
        for part in parts
        for key, kept in zip(part["key"].to_pylist(), selector.decide(plan, part).kept_N.tolist(), strict=True)
        if kept
    ]


METHODS = [(Random(), []), (Stratified(), []), (Coincide(), ["cluster"]), (Balanced(), ["task", "cluster"])]


@pytest.mark.parametrize(("method", "ranked_by"), METHODS, ids=["random", "stratified", "coincide", "balanced"])
@given(seed=st.integers(0, 999), ratio=st.sampled_from([0.1, 0.3, 0.5]), blocks=st.integers(1, 4))
def test_as_on_a_dataset_of_these_rows_alone(method, ranked_by, seed, ratio, blocks):
    """Tables of the rows that remain, ranks counted anew: the same rows, and as many as of all rows were asked for."""
    marked_N = np.random.default_rng(seed).random(80) < 0.3
    rows = ROWS.filter(pa.array(~marked_N))
    tables = _tables(rows)
    goal = remaining_goal(Goal(ratio=ratio, seed=seed), 80, rows.num_rows)
    alone = _with_ranks_of(rows, ranked_by) if ranked_by else rows
    kept = _kept(Remaining(method=method), tables, goal, rows, blocks)
    assert sorted(kept) == sorted(_kept(method, tables, goal, alone, 1))
    assert len(kept) == round(ratio * 80)


@given(seed=st.integers(0, 999), blocks=st.integers(1, 3))
def test_inside_an_envelope_too(seed, blocks):
    """The envelope counts, draws and fills from the rows that remain."""
    marked_N = np.random.default_rng(seed).random(80) < 0.4
    rows = ROWS.filter(pa.array(~marked_N))
    goal = remaining_goal(Goal(ratio=0.4, seed=seed), 80, rows.num_rows)
    envelope = Envelope(floor=0.5, cap=2.0, random_share=0.3)
    kept = _kept(Enveloped(method=Remaining(method=Coincide()), envelope=envelope), _tables(rows), goal, rows, blocks)
    alone = _with_ranks_of(rows, ["cluster"])
    assert sorted(kept) == sorted(_kept(Enveloped(method=Coincide(), envelope=envelope), _tables(rows), goal, alone, 1))
    assert len(kept) == 32


@given(st.integers(1, 2_000_000), st.data())
def test_the_ratio_that_is_advised_can_be_had(rows, data):
    """However few digits it has, it asks for no more rows than remain, and for more than stay anyway."""
    remaining = data.draw(st.integers(1, rows - 1)) if rows > 1 else 1
    kept = data.draw(st.integers(0, rows - remaining))
    with pytest.raises(UserError, match="Lower the ratio to ") as told:
        remaining_goal(Goal(ratio=1.0), rows + 1, remaining, kept)
    advised = Goal(ratio=float(str(told.value).split("Lower the ratio to ")[1].split()[0]))
    added = remaining_goal(advised, rows + 1, remaining, kept).target(remaining)
    assert 0.99 * (remaining + kept) - 1 <= added + kept
    assert added >= 1


def test_what_cannot_be_kept_is_told():
    """The target is a part of all rows."""
    with pytest.raises(UserError, match="ratio 0.5 of 10 rows keeps 5, and 6 are marked: 4 remain"):
        remaining_goal(Goal(ratio=0.5), 10, 4)
    with pytest.raises(UserError, match="524 are marked: 0 remain. Leave marks aside"):
        remaining_goal(Goal(ratio=0.5), 524, 0)
    assert remaining_goal(Goal(ratio=0.4), 10, 4).target(4) == 4
    assert remaining_goal(Goal(ratio=0.3), 1000, 7 + 300).target(307) == 300


def test_it_says_what_its_method_says():
    """Needs, columns and shares are the method's."""
    assert Remaining(method=Stratified()).has_task_shares
    assert not Remaining(method=Random()).has_task_shares
    assert Remaining(method=Coincide()).needs == Coincide().needs
    assert Remaining(method=Coincide()).columns >= Coincide().columns
