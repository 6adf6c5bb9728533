"""Any selector inside an envelope: exact budgets, the ends of the bounds, and the same rows for any blocks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from raycurate.errors import UserError
from raycurate.selection import REASONS, Decisions, Goal, Plan, RowOrder, SelectionTables, build_selector
from raycurate.selection.budget import allocate
from raycurate.selection.envelope import Envelope, task_budgets
from raycurate.selection.enveloped import Enveloped, EnvelopePlan
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.local import make_plan, select_rows
from raycurate.selection.methods.coincide import Coincide
from raycurate.selection.methods.stratified import Stratified
from raycurate.selection.shares import task_shares
from tests.selection.selection_cases import TaskedCase, in_blocks, kept_keys, tasked_case

FREE = Envelope(floor=0.0, cap=math.inf, random_share=0.0)
WHOLE = Envelope(floor=1.0, cap=1.0, random_share=1.0)


@dataclass(frozen=True)
class ShortKeys:
    """A user's method without a cut: it knows the place of a row by its key alone."""

    needs = frozenset({"samples"})
    columns = frozenset({"key"})

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group; which rows stay is known only for all of them, so it keeps everything below a number."""
        target = goal.target(tables.num_rows)
        size = np.array([tables.num_rows])
        return Plan(
            goal=goal,
            target=target,
            group_column=None,
            groups=pa.array(["all"]),
            size_G=size,
            quota_G=np.array([target]),
        )

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Not needed."""
        raise AssertionError("its plan needs no cut")

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """The `place` of a row in all rows against the target."""
        place_N = rows["place"].to_numpy().astype(np.float64)
        kept_N = place_N < plan.expected
        return Decisions(kept_N=kept_N, score_N=place_N, reason_N=np.where(kept_N, "first", "later"))


METHODS = {
    "coincide": Coincide(temperature=0.2),
    "nearest": Coincide(order_by="nearest"),
    "by size": Coincide(weighting="size", order_by="random"),
    "el2n": build_selector("el2n"),
    "high": build_selector("el2n", {"keep": "high"}),
    "balanced": build_selector("balanced"),
    "balanced by P": build_selector("balanced", {"within": "coincide"}),
    "random": build_selector("random"),
    "stratified": Stratified(),
    "visual gain": build_selector("visual_gain"),
    "presel": build_selector("presel"),
    "prism": build_selector("prism"),
    "scalselect": build_selector("scalselect"),
    "own": ShortKeys(),
}


BY_CELL = ("balanced", "balanced by P", "presel")


def rows_for(name: str, made: TaskedCase) -> pa.Table:
    """The rows with the ranks that a method reads."""
    table = made.by_cell if name in BY_CELL else made.by_cluster
    drawn = np.random.default_rng(7).random(table.num_rows) < 0.06
    table = table.append_column("value", pa.array(np.random.default_rng(8).integers(0, 9, table.num_rows) / 8))
    table = table.append_column("reference", pa.array(drawn & (made.case.labels > 0)))
    table = table.append_column("irs", pa.array(np.where(drawn & (made.case.labels > 0), 0.7, np.nan)))
    return table.append_column("place", pa.array(np.random.default_rng(3).permutation(table.num_rows)))


@pytest.fixture(scope="module")
def made() -> TaskedCase:
    """Five tasks over five clusters."""
    return tasked_case(4)


def tables_for(name: str, made: TaskedCase) -> SelectionTables:
    """Cells are there for the methods that read them only."""
    return made.tables if name in BY_CELL else replace(made.tables, cells=None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ratio", [0.05, 0.31, 1.0])
def test_the_ends_are_the_method_and_the_stratified_draw(made: TaskedCase, name: str, ratio: float) -> None:
    """Without bounds and draw the method's very rows; with the whole share drawn those of `stratified`."""
    tables, rows, goal = tables_for(name, made), rows_for(name, made), Goal(ratio=ratio, seed=3)
    method = METHODS[name]
    alone = kept_keys(method, tables, goal, [rows])
    assert kept_keys(Enveloped(method=method, envelope=FREE), tables, goal, in_blocks(rows, 23)) == alone
    drawn = kept_keys(Stratified(), tables, goal, [rows])
    assert kept_keys(Enveloped(method=method, envelope=WHOLE), tables, goal, [rows]) == drawn


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_every_budget_is_exact_for_any_blocks(made: TaskedCase, name: str, power: float) -> None:
    """As many rows of each task as its budget says, the same ones from one block or many in another order."""
    tables, rows, goal = tables_for(name, made), rows_for(name, made), Goal(ratio=0.25, seed=1, task_power=power)
    selector = Enveloped(method=METHODS[name], envelope=Envelope())
    plan = make_plan(selector, tables, goal, lambda function: iter([function(rows)]))
    assert isinstance(plan, EnvelopePlan)
    decided = selector.decide(plan, rows)
    kept = Counter(np.array(made.tasks)[decided.kept_N].tolist())
    drawn = Counter(np.array(made.tasks)[decided.reason_N == "drawn"].tolist())
    assert sum(kept.values()) == plan.expected == round(0.25 * rows.num_rows)
    for budget in plan.budgets:
        assert kept[budget.task] == budget.rows
        assert drawn[budget.task] == budget.drawn or name in ("random", "stratified")  # all of theirs are drawn
        low, high = selector.envelope.bounds(budget.share, budget.usable)
        assert low <= budget.rows <= high
    whole = set(np.array(rows["key"].to_pylist())[decided.kept_N].tolist())
    assert kept_keys(selector, tables, goal, in_blocks(rows, 17)) == whole
    assert set(decided.reason_N.tolist()) <= {*REASONS, "first", "later"}


@pytest.mark.parametrize("seed", range(6))
def test_coincide_in_the_envelope_equals_its_steps_written_out(seed: int) -> None:
    """Alone, budgets, draw, COINCIDE's allocation over the clusters of each task, its order among the rows left."""
    made = tasked_case(seed, rows=120)
    goal, envelope = Goal(ratio=0.3, seed=seed), Envelope()
    tables, rows, method = tables_for("coincide", made), made.by_cluster, Coincide(temperature=0.2)
    alone = kept_keys(method, tables, goal, [rows])
    keys, tasks, clusters, ranks = made.case.keys, made.tasks, made.case.labels.tolist(), rows["rank"].to_pylist()
    kept_alone = Counter(task for key, task in zip(keys, tasks, strict=True) if key in alone)
    share = task_shares(tables.tasks, len(alone), goal).share
    hashes = dict(zip(keys, key_hashes(key_array(rows["key"]), seed=seed, purpose="draw").tolist(), strict=True))
    score_K = tables.clusters.transferability["paper"] / tables.clusters.density["paper"]
    expected: set[str] = set()
    for budget in task_budgets(envelope, shares=share, alone=kept_alone, usable=tables.tasks):
        if budget.is_untouched:
            expected |= {key for key, task in zip(keys, tasks, strict=True) if task == budget.task and key in alone}
            continue
        own = sorted((i for i in range(len(keys)) if tasks[i] == budget.task), key=lambda i: hashes[keys[i]])
        drawn, left = own[: budget.drawn], own[budget.drawn :]
        expected |= {keys[i] for i in drawn}
        size_K = np.bincount([clusters[i] for i in left], minlength=len(score_K))
        quota_K = allocate(score_K, size_K, budget.rows - budget.drawn, temperature=0.2).quota_K
        for cluster, quota in enumerate(quota_K.tolist()):
            inside = sorted((i for i in left if clusters[i] == cluster), key=lambda i: ranks[i])
            expected |= {keys[i] for i in inside[:quota]}
    assert kept_keys(Enveloped(method=method, envelope=envelope), tables, goal, [rows]) == expected


def test_the_drawn_rows_of_a_smaller_ratio_are_among_those_of_a_larger(made: TaskedCase) -> None:
    """Nested, and by the seed."""
    tables, rows = tables_for("el2n", made), made.by_cluster
    drawn: dict[tuple[float, int], set[str]] = {}
    for ratio, seed in ((0.1, 0), (0.4, 0), (0.4, 1)):
        selector = Enveloped(method=METHODS["el2n"], envelope=Envelope(random_share=0.5))
        for block, decided in select_rows(selector, tables, Goal(ratio=ratio, seed=seed), lambda: [rows]):
            at = decided.reason_N == "drawn"
            drawn[ratio, seed] = set(np.array(block["key"].to_pylist())[at].tolist())
    assert drawn[0.1, 0] < drawn[0.4, 0]
    assert drawn[0.4, 1] != drawn[0.4, 0]


def test_rows_that_the_method_cannot_keep_are_not_drawn(made: TaskedCase) -> None:
    """Rows without a score take no part; the budget is met by the others, and a task without any gives none."""
    rows = made.by_cluster
    lost = np.array([task == "few" or i % 3 == 0 for i, task in enumerate(made.tasks)])
    rows = rows.set_column(rows.column_names.index("el2n"), "el2n", pa.array(rows["el2n"].to_numpy(), mask=lost))
    usable = int((~lost).sum())
    tables = SelectionTables(num_rows=rows.num_rows, tasks=made.tables.tasks, num_usable=usable)
    selector = Enveloped(method=METHODS["el2n"], envelope=Envelope(random_share=0.6))
    for ratio, kept in ((0.3, 48), (1.0, usable)):
        ((_, decided),) = select_rows(selector, tables, Goal(ratio=ratio), lambda: [rows])
        assert decided.kept_N.sum() == kept
        assert not decided.kept_N[lost].any()
        assert set(decided.reason_N[lost].tolist()) == {"no_score"}


def test_what_the_methods_own_options_leave_open_is_drawn(made: TaskedCase) -> None:
    """COINCIDE that keeps at most a fifth of a cluster cannot fill the floor of a task: the draw does."""
    tables = tables_for("coincide", made)
    method = Coincide(max_keep_fraction=0.2)
    alone = len(kept_keys(method, tables, Goal(ratio=0.5), [made.by_cluster]))
    selector = Enveloped(method=method, envelope=Envelope(floor=1.0, random_share=0.0))
    plan = make_plan(selector, tables, Goal(ratio=0.5), lambda function: iter([function(made.by_cluster)]))
    assert plan.expected == alone < 80
    assert any(budget.drawn for budget in plan.budgets)
    assert selector.decide(plan, made.by_cluster).kept_N.sum() == alone


def test_an_option_that_a_task_cannot_meet_is_told_with_the_task(made: TaskedCase) -> None:
    """Which task, and how many rows were asked for."""
    selector = Enveloped(method=Coincide(min_cluster_keep=2), envelope=Envelope())
    with pytest.raises(
        UserError, match="of task '.*' the envelope asks the method for .* rows of .*min_cluster_keep=2"
    ):
        kept_keys(selector, tables_for("coincide", made), Goal(ratio=0.1), [made.by_cluster])


def test_without_tasks_there_are_no_bounds() -> None:
    """The message says what is missing."""
    selector = Enveloped(method=build_selector("random"), envelope=Envelope())
    with pytest.raises(UserError, match="no table of tasks"):
        make_plan(selector, SelectionTables(num_rows=3), Goal(ratio=1), lambda _: iter(()))
