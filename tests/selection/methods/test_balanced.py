"""Balanced: shares of tasks, quotas of their clusters, and the greedy order of each cell, against slow loops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.cells import CellTable
from raycurate.selection.methods.balanced import Balanced
from tests.selection import naive_coincide
from tests.selection.naive_cells import largest_remainders
from tests.selection.selection_cases import TaskedCase, in_blocks, kept_keys, tasked_case


def naive(made: TaskedCase, goal: Goal, within: str, temperature: float) -> set[str]:
    """Cells, quotas and greedy picks as loops."""
    case, tasks = made.case, made.tasks
    names = sorted(set(tasks))
    count = Counter(tasks)
    sizes = [count[name] for name in names]
    target = goal.target(len(tasks))
    of_task = largest_remainders([size**goal.task_power for size in sizes], target, sizes)
    score_K = made.tables.clusters.transferability["paper"] / made.tables.clusters.density["paper"]
    kept: set[str] = set()
    for name, quota in zip(names, of_task, strict=True):
        cells = sorted({case.labels[i] for i in range(len(tasks)) if tasks[i] == name})
        rows = [[i for i in range(len(tasks)) if tasks[i] == name and case.labels[i] == c] for c in cells]
        held = [len(cell) for cell in rows]
        weights = held if within == "size" else np.exp((score_K[cells] - score_K[cells].max()) / temperature).tolist()
        for cell, take in zip(rows, largest_remainders(weights, quota, held), strict=True):
            by_key = sorted(cell, key=lambda i: case.keys[i])
            kernel = naive_coincide.kernel(case.features[by_key], 1.0)
            kept |= {case.keys[by_key[pick]] for pick in naive_coincide.greedy(kernel, take)}
    return kept


@pytest.mark.parametrize("within", ["size", "coincide"])
@pytest.mark.parametrize(("seed", "ratio", "power"), [(1, 0.1, 1.0), (2, 0.3, 0.5), (3, 0.6, 0.0), (4, 0.9, 0.25)])
def test_it_keeps_the_rows_of_its_formula(seed: int, ratio: float, power: float, within: str) -> None:
    """Tasks of one cluster and of three rows, a cluster of one task; any blocks, any order."""
    made = tasked_case(seed, rows=90)
    goal = Goal(ratio=ratio, task_power=power)
    options = {} if within == "size" else {"temperature": 1.0}
    selector = Balanced(within=within, **options)
    expected = naive(made, goal, within, 1.0)
    assert kept_keys(selector, made.tables, goal, [made.by_cell]) == expected
    assert kept_keys(selector, made.tables, goal, in_blocks(made.by_cell, 11)) == expected
    assert len(expected) == round(ratio * 90)


def test_ratios_are_exact_and_cells_that_are_full_pass_on_their_share() -> None:
    """A temperature at which all but one weight are zero as floats still keeps every row that is asked for."""
    made = tasked_case(5)
    selector = Balanced(within="coincide", temperature=1e-6)
    for ratio in (0.01, 0.5, 0.99, 1.0):
        kept = kept_keys(selector, made.tables, Goal(ratio=ratio), [made.by_cell])
        assert len(kept) == round(ratio * len(made.tasks))


def test_rows_without_features_are_in_no_cell_and_their_tasks_give_others() -> None:
    """Text-only tasks whose rows have features are tasks as others; a task without any features gives no row."""
    made = tasked_case(6)
    lost = np.array([task == "few" or i % 4 == 0 for i, task in enumerate(made.tasks)])
    rows = made.by_cell
    for name in ("cluster", "rank"):
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, pa.array(rows[name].to_numpy(), mask=lost))
    at = [(t, int(c)) for t, c, gone in zip(made.tasks, made.case.labels, lost, strict=True) if not gone]
    tables = replace(made.tables, cells=CellTable.of(Counter(at)))
    for ratio in (0.25, 1.0):
        kept = kept_keys(Balanced(), tables, Goal(ratio=ratio), [rows])
        assert len(kept) <= min(round(ratio * len(made.tasks)), len(at))
        assert not kept & {key for key, gone in zip(made.case.keys, lost, strict=True) if gone}


def test_task_weights_decide_how_much_of_each() -> None:
    """Twice the weight is twice the share, until a task is used up."""
    made = tasked_case(7)
    weights = dict.fromkeys(made.tables.tasks, 1.0)
    before = Counter(dict(zip(made.case.keys, made.tasks, strict=True))[k] for k in _kept(made, weights))
    after = Counter(dict(zip(made.case.keys, made.tasks, strict=True))[k] for k in _kept(made, {**weights, "ocr": 4.0}))
    assert after["ocr"] > 1.5 * before["ocr"]
    assert sum(after.values()) == sum(before.values())


def _kept(made: TaskedCase, weights: dict[str, float]) -> set[str]:
    return kept_keys(Balanced(), made.tables, Goal(ratio=0.2, task_weights=weights), [made.by_cell])


def test_what_it_does_not_have_is_told() -> None:
    """No cells; a temperature that would have no effect; one that is no number."""
    with pytest.raises(UserError, match="needs the tables of tasks and cells"):
        Balanced().plan(SelectionTables(num_rows=3, tasks={"a": 3}), Goal(ratio=0.5))
    with pytest.raises(UserError, match="temperature 0.1 is of the budget of COINCIDE: say `--method coincide`"):
        build_selector("balanced", {"temperature": 0.1})
    with pytest.raises(UserError, match="it must be a positive number"):
        build_selector("balanced", {"within": "coincide", "temperature": -1})


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2])
def test_it_stands_for_all_rows_better_than_any_draw(ratio: float) -> None:
    """MMD^2 to all rows, the kernel in full: below COINCIDE and the mean of ten random and of ten stratified draws."""
    made = tasked_case(12, rows=400, clusters=8)
    kernel = naive_coincide.kernel(made.case.features, 1.0)
    place = {key: i for i, key in enumerate(made.case.keys)}

    def distance(selector: object, rows: pa.Table, seed: int = 0) -> float:
        kept = kept_keys(selector, made.tables, Goal(ratio=ratio, seed=seed), [rows])
        return naive_coincide.mmd_squared(kernel, [place[key] for key in kept])

    balanced = distance(Balanced(), made.by_cell)
    assert balanced < distance(build_selector("coincide"), made.by_cluster)
    for name in ("random", "stratified"):
        draws = [distance(build_selector(name), made.by_cluster, seed) for seed in range(10)]
        assert balanced < sum(draws) / len(draws)
