"""Visual gain against a sort of every cell: ties, text alone, lost rows, one task, one cluster, inside an envelope."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import ClusterTable, Goal, SelectionTables, build_selector
from raycurate.selection.envelope import Envelope
from raycurate.selection.enveloped import Enveloped
from raycurate.selection.keys import key_array, key_hashes
from tests.selection.naive_cells import first_of_cells
from tests.selection.selection_cases import in_blocks, kept_keys, sample_keys

GAIN = build_selector("visual_gain")


def case(seed: int, rows: int, tasks: int, clusters: int) -> pa.Table:
    """Rows with many equal gains; some of text alone, some without a score, some without a cluster."""
    random = np.random.default_rng(seed)
    loss = random.choice([0.5, 1.0, 1.5, 2.0], rows).astype(np.float32)
    blind = random.choice([0.5, 1.0, 1.5, 2.0], rows).astype(np.float32)
    lost = random.random(rows) < 0.1
    text = random.random(rows) < 0.2
    nowhere = random.random(rows) < 0.05
    return pa.table(
        {
            "key": sample_keys(rows, seed),
            "task": [f"t{int(t)}" for t in random.integers(0, tasks, rows) ** 2 // max(tasks - 1, 1)],
            "cluster": pa.array(random.integers(0, clusters, rows), pa.int32(), mask=nowhere),
            "loss": pa.array(loss, mask=lost),
            "loss_blind": pa.array(blind, mask=lost | text),
            "answer_tokens": pa.array(random.choice([1, 3, 20], rows).astype(np.int32), mask=lost),
        }
    )


def tables_of(rows: pa.Table) -> SelectionTables:
    """What `ingest` counts."""
    counts = rows["task"].value_counts().to_pylist()
    return SelectionTables(num_rows=rows.num_rows, tasks={entry["values"]: entry["counts"] for entry in counts})


def naive(rows: pa.Table, goal: Goal, shrink: float, only_gain: bool) -> set[str]:
    """Bands of positive gains, no gain, other gains; everything sorted in Python."""
    held = rows.to_pylist()
    hashes = key_hashes(key_array(rows["key"]), seed=goal.seed, purpose="draw").tolist()
    cells: list[tuple[str, int] | None] = []
    places: list[tuple[int, float, str]] = []
    for row, drawn in zip(held, hashes, strict=True):
        gain = None
        if row["loss_blind"] is not None:
            tokens = row["answer_tokens"]
            gain = (row["loss_blind"] - row["loss"]) * tokens / (tokens + shrink)
        usable = row["loss"] is not None and row["cluster"] is not None
        usable = usable and not (only_gain and gain is not None and gain <= 0)
        cells.append((row["task"], row["cluster"]) if usable else None)
        if gain is None:
            places.append((1, drawn, row["key"]))
        else:
            places.append((0 if gain > 0 else 2, -gain, row["key"]))
    keys, tasks = [row["key"] for row in held], [row["task"] for row in held]
    return first_of_cells(keys, cells, tasks, goal.target(len(held)), places.__getitem__, goal.task_power)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 70),
    tasks=st.integers(1, 4),
    clusters=st.integers(1, 4),
    ratio=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    power=st.sampled_from([1.0, 0.5, 0.0]),
    shrink=st.sampled_from([0.0, 4.0]),
    only_gain=st.booleans(),
)
def test_it_keeps_the_rows_of_its_formula(seed, rows, tasks, clusters, ratio, power, shrink, only_gain) -> None:
    """For any blocks in any order, with the budget that the rows with a score allow."""
    table, goal = case(seed, rows, tasks, clusters), Goal(ratio=ratio, seed=seed % 3, task_power=power)
    if table["loss_blind"].null_count == rows:
        return
    selector = build_selector("visual_gain", {"shrink": shrink, "only_gain": only_gain})
    expected = naive(table, goal, shrink, only_gain)
    if not expected and not naive(table, replace(goal, ratio=1.0), shrink, only_gain):
        with pytest.raises(UserError, match="has a cluster and a score"):
            kept_keys(selector, tables_of(table), goal, [table])
        return
    assert kept_keys(selector, tables_of(table), goal, [table]) == expected
    assert kept_keys(selector, tables_of(table), goal, in_blocks(table, 7, seed)) == expected


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_rows_without_a_score_inside_an_envelope(power: float) -> None:
    """They take no part, in the draw neither: the method's own rows without bounds, exact budgets within."""
    rows = case(4, 200, 4, 3)
    clusters = ClusterTable(cluster_K=np.arange(3), size_K=np.bincount(rows["cluster"].drop_null().to_numpy()))
    tables, goal, method = replace(tables_of(rows), clusters=clusters), Goal(ratio=0.3, seed=2, task_power=power), GAIN
    alone = kept_keys(method, tables, goal, [rows])
    free = Enveloped(method=method, envelope=Envelope(floor=0.0, cap=float("inf"), random_share=0.0))
    assert kept_keys(free, tables, goal, in_blocks(rows, 31)) == alone
    within = Enveloped(method=method, envelope=Envelope())
    kept = kept_keys(within, tables, goal, [rows])
    assert kept == kept_keys(within, tables, goal, in_blocks(rows, 13))
    assert len(kept) == 60
    usable = {row["key"] for row in rows.to_pylist() if row["loss"] is not None and row["cluster"] is not None}
    assert kept < usable


def test_rows_that_gain_nothing_say_so() -> None:
    """Each row has its reason; the score is the gain, NaN where there is none."""
    rows = pa.table(
        {
            "key": sample_keys(4),
            "task": ["t"] * 4,
            "cluster": [0] * 4,
            "loss": pa.array([1.0, 1.0, 1.0, None], pa.float32()),
            "loss_blind": pa.array([3.0, 0.5, None, None], pa.float32()),
            "answer_tokens": pa.array([4, 4, 4, None], pa.int32()),
        }
    )
    selector = build_selector("visual_gain", {"only_gain": True})
    plan = selector.plan_by_counting(tables_of(rows), Goal(ratio=0.25), lambda function: iter([function(rows)]))
    made = selector.decide(plan, rows)
    assert made.reason_N.tolist() == ["within_quota", "no_gain", "over_quota", "no_score"]
    assert made.score_N[:2].tolist() == [1.0, -0.25]
    assert np.isnan(made.score_N[2:]).all()


def test_what_it_does_not_have_is_told() -> None:
    """No blind losses; clusters of several tasks without their cells; a shrinking that is none."""
    rows = case(1, 20, 2, 2)
    bare = rows.set_column(rows.column_names.index("loss_blind"), "loss_blind", pa.nulls(20, pa.float32()))
    with pytest.raises(UserError, match="no row has a loss without its image.*blind=true"):
        kept_keys(build_selector("visual_gain"), tables_of(bare), Goal(ratio=0.5), [bare])
    with pytest.raises(UserError, match="needs the task of every row and clusters"):
        build_selector("visual_gain").plan(SelectionTables(num_rows=3, tasks={"a": 2, "b": 1}), Goal(ratio=0.5))
    with pytest.raises(UserError, match="shrink is -1"):
        build_selector("visual_gain", {"shrink": -1})
