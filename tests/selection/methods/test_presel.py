"""PreSel against slow loops: weights, quotas, typicality, rows that stay; ties, one cluster, one task, text alone."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.methods.presel import Presel
from raycurate.selection.ranked import NO_IMAGE, GroupRows, RankedInTasks
from raycurate.selection.reference import IrsSums, in_reference, reference_plan, task_weights
from raycurate.selection.typicality import typicality
from tests.selection.selection_cases import in_blocks, kept_keys, sample_keys, unit_features

TASKS = ("chat", "ocr", "vqa")


def table_of(seed: int, rows: int, *, tasks: int = 3, clusters: int = 3, text: float = 0.2) -> pa.Table:
    """Rows as `select` joins them: each task has clusters of its own, some rows no image, some are of the reference."""
    random = np.random.default_rng(seed)
    task = random.integers(0, tasks, rows)
    cluster = np.where(random.random(rows) < text, NO_IMAGE, 1 + task * clusters + random.integers(0, clusters, rows))
    rank = np.zeros(rows, dtype=np.int64)
    for cell in set(zip(task.tolist(), cluster.tolist(), strict=True)):
        at = np.flatnonzero((task == cell[0]) & (cluster == cell[1]))
        rank[at] = random.permutation(at.size)
    shown = (random.random(rows) < 0.15) & (cluster != NO_IMAGE)
    shown[np.flatnonzero(cluster != NO_IMAGE)[:1]] = True
    irs = np.where(shown, random.choice([0.25, 0.5, 0.9, 1.5], rows), np.nan)
    return pa.table(
        {
            "key": sample_keys(rows, seed),
            "task": [TASKS[t] for t in task.tolist()],
            "cluster": pa.array(cluster, pa.int32()),
            "rank": pa.array(rank),
            "reference": pa.array(shown),
            "irs": pa.array(irs, pa.float32(), from_pandas=True),
        }
    )


def largest_remainder(weights: list[float], target: int, room: list[int]) -> list[int]:
    """Shares within room by bisection of the factor, then floors and the largest remainders, in float64."""
    low, high = 0.0, 1.0
    weights = [w if r else 0.0 for w, r in zip(weights, room, strict=True)]
    if target == sum(room):
        return room
    while sum(min(high * w, r) for w, r in zip(weights, room, strict=True)) < target:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        full = sum(min(middle * w, r) for w, r in zip(weights, room, strict=True)) >= target
        low, high = (low, middle) if full else (middle, high)
    shares = [min(high * w, r) for w, r in zip(weights, room, strict=True)]
    whole = [math.floor(share + 1e-9) for share in shares]
    order = sorted(range(len(shares)), key=lambda g: (-round(shares[g] - whole[g], 9), g))
    for g in order[: target - sum(whole)]:
        whole[g] += 1
    return whole


def naive(table: pa.Table, ratio: float, seed: int, temperature: float | None = None) -> set[str]:
    """The rows that stay, step by step over Python rows."""
    rows = [row for row in table.to_pylist() if row["cluster"] is not None and row["reference"] is not None]
    hashes = key_hashes(key_array(table["key"]), seed=seed, purpose="draw").tolist()
    place = dict(zip(table["key"].to_pylist(), hashes, strict=True))
    target = min(round(ratio * table.num_rows), len(rows))
    texts = [row for row in rows if row["cluster"] == NO_IMAGE]
    images = [row for row in rows if row["cluster"] != NO_IMAGE]
    of_images, of_text = largest_remainder([len(images), len(texts)], target, [len(images), len(texts)])
    kept: set[str] = set()
    names = sorted({row["task"] for row in texts})
    sizes = [sum(row["task"] == name for row in texts) for name in names]
    for name, count in zip(names, largest_remainder(sizes, of_text, sizes) if texts else [], strict=True):
        own = sorted((row for row in texts if row["task"] == name), key=lambda row: place[row["key"]])
        kept |= {row["key"] for row in own[:count]}
    labelled = [row for row in images if row["reference"]]
    kept |= {row["key"] for row in labelled}
    names = sorted({row["task"] for row in images})
    irs = {n: [row["irs"] for row in labelled if row["task"] == n] for n in names}
    known = {n: sum(values) / len(values) for n, values in irs.items() if values}
    usual = sum(known.values()) / len(known)
    heat = 1 / math.sqrt(len(names)) if temperature is None else temperature
    weights = [math.exp(-known.get(n, usual) / heat) for n in names]
    free = [row for row in images if not row["reference"]]
    room = [sum(row["task"] == n for row in free) for n in names]
    for name, count in zip(names, largest_remainder(weights, of_images - len(labelled), room), strict=True):
        own = [row for row in free if row["task"] == name]
        clusters = sorted({row["cluster"] for row in images if row["task"] == name})
        sizes = [sum(row["cluster"] == c for row in own) for c in clusters]
        for cluster, quota in zip(clusters, largest_remainder(sizes, count, sizes), strict=True):
            inside = sorted((row for row in own if row["cluster"] == cluster), key=lambda row: row["rank"])
            kept |= {row["key"] for row in inside[:quota]}
    return kept


def select(table: pa.Table, ratio: float, seed: int = 0, block: int = 17, **options: object) -> set[str]:
    """What the method keeps of blocks in another order."""
    tables = SelectionTables(num_rows=table.num_rows, tasks=dict(Counter(table["task"].to_pylist())))
    goal = Goal(ratio=ratio, seed=seed)
    return kept_keys(build_selector("presel", options), tables, goal, in_blocks(table, block, seed))


@given(
    seed=st.integers(0, 300),
    rows=st.integers(12, 90),
    ratio=st.sampled_from([0.3, 0.45, 0.8, 1.0]),
    text=st.sampled_from([0.0, 0.3]),
    shape=st.sampled_from([(1, 1), (1, 4), (3, 1), (3, 3)]),
)
def test_the_rows_of_the_formula(seed: int, rows: int, ratio: float, text: float, shape: tuple[int, int]) -> None:
    """One task or three, one cluster or several, with and without rows of text alone: the naive rows, exactly."""
    table = table_of(seed, rows, tasks=shape[0], clusters=shape[1], text=text)
    reference = sum(table["reference"].to_pylist())
    kept = select(table, ratio, seed)
    assert len(kept) == round(ratio * rows)
    if round(ratio * rows) * (1 - text) > reference + 4:
        assert kept == naive(table, ratio, seed)


def test_lost_rows_are_never_kept_and_their_budget_is_met() -> None:
    """Rows without features or without the reference's scores; the target counts them, the others fill it."""
    table = table_of(3, 80)
    lost = [i % 7 == 0 for i in range(80)]
    gone = [i % 11 == 0 for i in range(80)]
    for name, where in (("cluster", lost), ("rank", lost), ("reference", gone), ("irs", gone)):
        values = [None if out else value for out, value in zip(where, table[name].to_pylist(), strict=True)]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    kept = select(table, 0.5)
    assert len(kept) == 40
    keys = table["key"].to_pylist()
    assert not kept & {key for key, a, b in zip(keys, lost, gone, strict=True) if a or b}
    assert kept == naive(table, 0.5, 0)


def test_rows_without_any_of_the_reference_are_told_from_a_reference_without_scores() -> None:
    """A condition that leaves the reference out is another mistake than a pass that lost all of its rows."""
    table = table_of(5, 60, text=0.0)
    with pytest.raises(UserError, match="rows that can be kept is one of the reference.* Loosen --where"):
        select(table.filter(pc.invert(table["reference"])), 0.5)
    lost = table.set_column(5, "irs", pa.nulls(60, pa.float32()))
    with pytest.raises(UserError, match="none of the reference rows has an IRS"):
        select(lost, 0.5)


def test_a_budget_below_the_reference_keeps_a_part_of_it() -> None:
    """No row that is not drawn, and the exact number."""
    table = table_of(5, 200, text=0.0)
    flagged = {row["key"] for row in table.to_pylist() if row["reference"]}
    kept = select(table, 0.05)
    assert len(kept) == 10
    assert kept < flagged


def test_the_temperature_moves_rows_to_tasks_of_low_irs() -> None:
    """The colder, the more rows the task gives whose questions help most; hot gives all alike."""
    table = table_of(8, 600, text=0.0)
    irs = pa.array([None if not r["reference"] else (0.2 if r["task"] == "ocr" else 1.0) for r in table.to_pylist()])
    table = table.set_column(table.column_names.index("irs"), "irs", irs.cast(pa.float32()))
    tasks = dict(zip(table["key"].to_pylist(), table["task"].to_pylist(), strict=True))
    counts = [Counter(tasks[key] for key in select(table, 0.4, temperature=heat))["ocr"] for heat in (0.05, 0.5, 1e6)]
    assert counts[0] > counts[1] > counts[2]
    assert select(table, 0.4, temperature=0.5) == naive(table, 0.4, 0, 0.5)


def test_weights_are_those_of_the_formula_for_any_blocks() -> None:
    """Softmax of the mean IRS over tasks; a task without one has the usual; extreme and missing IRS are no trap."""
    rows = pa.table({"task": ["a", "a", "b", "c", "c"], "irs": pa.array([0.5, 1.0, 0.25, None, float("inf")])})
    whole = IrsSums.of(rows)
    parts = IrsSums.added([IrsSums.of(rows.slice(i, 1)) for i in (3, 1, 4, 0, 2)])
    assert whole.difficulties() == parts.difficulties() == {"a": 0.75, "b": 0.25}
    plain = np.exp([-0.75 * 3**0.5, -0.25 * 3**0.5, -0.5 * 3**0.5])
    made = task_weights(whole, ["c", "a", "b"])
    assert [made[t] for t in "abc"] == pytest.approx((plain / plain.sum()).tolist(), abs=1e-11)
    with pytest.raises(UserError, match="none of the reference rows has an IRS"):
        task_weights(IrsSums(), ["a"])


@given(seed=st.integers(0, 200), part=st.sampled_from([0.01, 0.05, 0.5, 1.0]))
def test_the_reference_is_the_smallest_hashes_of_each_task(seed: int, part: float) -> None:
    """A twentieth of each task, one row at least, the same for any blocks."""
    table = table_of(seed, 70).select(["key", "task"])
    tasks = Counter(table["task"].to_pylist())
    hashes = key_hashes(key_array(table["key"]), seed=seed, purpose="draw").tolist()
    expected = set()
    for task, size in tasks.items():
        own = sorted((h, k) for h, k, t in zip(hashes, *table.to_pydict().values(), strict=True) if t == task)
        expected |= {key for _, key in own[: math.ceil(round(part * size, 9))]}
    blocks = in_blocks(table, 13, seed)
    plan = reference_plan(tasks, part, seed, lambda function: (function(rows) for rows in blocks))
    found = {k for rows in blocks for k, kept in zip(rows["key"].to_pylist(), in_reference(plan, rows)) if kept}  # noqa: B905
    assert found == expected


@given(seed=st.integers(0, 200), rows=st.integers(1, 30), k=st.integers(1, 6))
def test_typicality_is_the_mean_cosine_to_the_nearest(seed: int, rows: int, k: int) -> None:
    """Copies, fewer rows than neighbours, a row by itself: the slow loop in float64; the rank is by it, then by key."""
    features = unit_features(rows, 12, seed)
    features[::3] = features[rows // 2]
    keys = sample_keys(rows, seed)
    wide = features.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    expected = []
    for i in range(rows):
        others = sorted((float(wide[i] @ wide[j]) for j in range(rows) if j != i), reverse=True)[:k]
        expected.append(sum(others) / len(others) if others else 0.0)
    assert typicality(features, k) == pytest.approx(expected, abs=1e-12)
    nothing = np.full(rows, np.nan)
    made = Presel(neighbours=k).rank_group(
        GroupRows(features_ND=features, keys_N=key_array(pa.array(keys)), similarity_N=nothing, score_N=nothing)
    )
    order = sorted(range(rows), key=lambda i: (-made.value_N[i], keys[i]))
    assert [int(made.rank_N[i]) for i in order] == list(range(rows))


def test_typicality_of_more_than_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest rows may lie in any tile."""
    features = unit_features(90, 8, 1, spread=2.0)
    whole = typicality(features, 5)
    monkeypatch.setattr("raycurate.selection.typicality.TILE_ROWS", 7)
    assert typicality(features, 5).tolist() == whole.tolist()


def test_wrong_options_are_told() -> None:
    """With the bound; and it is a method whose tasks are clustered by themselves."""
    with pytest.raises(UserError, match="temperature is 0"):
        build_selector("presel", {"temperature": 0})
    with pytest.raises(UserError, match="neighbours is 0; it must be at least 1"):
        build_selector("presel", {"neighbours": 0})
    assert isinstance(Presel(), RankedInTasks)
    assert [Presel().rank_clusters(rows) for rows in (1, 99, 100, 1000)] == [1, 1, 1, 10]
    with pytest.raises(UserError, match="none of the 3 rows has an image's features"):
        select(table_of(0, 3).set_column(2, "cluster", pa.nulls(3, pa.int32())), 0.5)
