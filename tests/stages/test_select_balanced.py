"""`balanced`, envelopes and task shares through `select`: the same rows for any division, and everything told."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.pipeline import steps_of
from raycurate.recipe import Recipe
from raycurate.run.store import Run
from raycurate.selection import Goal, build_selector
from raycurate.selection.envelope import Envelope
from raycurate.selection.enveloped import Enveloped
from raycurate.settings import make_config
from raycurate.stages.select import select
from tests.drivers import kill_at_commit, kill_when, start
from tests.nouns import read_all, write_clusters, write_features, write_samples, write_scores
from tests.selection.selection_cases import TaskedCase, kept_keys, sample_keys, tasked_case

ROWS = 160
SCORES = ("el2n", "loss", "loss_blind", "answer_tokens")


@pytest.fixture(scope="module")
def case() -> TaskedCase:
    """Five tasks of very unequal size over five clusters."""
    return tasked_case(9, rows=ROWS)


def run_of(folder: Path, made: TaskedCase, *, shards: int, clusters: bool = True) -> Run:
    """The run directory of a case, up to its clusters."""
    run, case = Run(str(folder)), made.case
    write_samples(run, case.keys, made.tasks, shards=shards)
    scores = {name: made.by_cluster[name].to_pylist() for name in SCORES}
    write_scores(run, "token_losses", {"key": case.keys, **scores}, shards=shards)
    if clusters:
        write_features(run, case.keys, case.features, shards=shards, block_dim=case.block_dim)
        write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=shards)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory, case) -> Run:
    """In three shards."""
    return run_of(tmp_path_factory.mktemp("balanced") / "run", case, shards=3)


def selected(run: Run, **settings) -> tuple[set[str], object]:
    """The keys that a selection keeps, and its manifest."""
    manifest = select(run, make_config(SelectConfig, {"ratio": 0.3, **settings}))
    table = read_all(run.noun("selection", settings.get("label", "main")))
    return set(table.filter(table["kept"])["key"].to_pylist()), manifest


SETTINGS = {
    "balanced": {"task_power": 1.0},
    "root": {"task_power": 0.5},
    "inside": {"options": {"within": "coincide"}, "task_power": 0.0},
    "coincide": {"method": "coincide", "envelope": "0.5,2,0.3"},
    "el2n": {"method": "el2n", "envelope": [0.8, 1.5], "task_power": 0.5},
    "stratified": {"method": "stratified", "task_power": 0.25},
    "by size": {"method": "coincide", "options": {"weighting": "size"}},
    "gain": {"method": "visual_gain", "task_power": 0.5},
    "gain within": {"method": "visual_gain", "envelope": "0.5,2,0.3"},
}


def expected(name: str, made: TaskedCase) -> set[str]:
    """The same by the functions of arrays, over one block."""
    settings = {"method": "balanced", "options": {}, **SETTINGS[name]}
    selector = build_selector(settings["method"], settings["options"])
    if name in ("coincide", "gain within"):
        selector = Enveloped(method=selector, envelope=Envelope())
    if name == "el2n":
        selector = Enveloped(method=selector, envelope=Envelope(floor=0.8, cap=1.5))
    rows = made.by_cell if settings["method"] == "balanced" else made.by_cluster
    goal = Goal(ratio=0.3, task_power=settings.get("task_power", 1.0))
    return kept_keys(selector, made.tables, goal, [rows])


def test_shares_follow_the_square_root_of_a_tasks_rows_where_nothing_is_said(run):
    """Of `balanced`; `stratified` and the envelope of another method keep the mix of the data."""
    own, _ = selected(run, label="own")
    assert own == selected(run, task_power=0.5, label="root")[0] != selected(run, task_power=1.0, label="rows")[0]
    drawn, _ = selected(run, method="stratified", label="drawn")
    assert drawn == selected(run, method="stratified", task_power=1.0, label="drawn-rows")[0]


def test_the_stage_keeps_what_the_functions_keep_for_any_division_of_the_work(ray_cluster, tmp_path, case, run):
    """One shard, three or five; one, two or three tasks at once: the rows of one block in one process."""
    for shards, at_once in ((1, 1), (5, 2), (3, 3)):
        divided = run if shards == 3 else run_of(tmp_path / str(shards), case, shards=shards)
        for name, settings in SETTINGS.items():
            kept, manifest = selected(divided, label=name.replace(" ", "-"), max_tasks=at_once, **settings)
            assert kept == expected(name, case), (name, shards)
            assert manifest.metrics["kept"] == len(kept) == round(0.3 * ROWS)


def test_the_order_of_cells_is_made_once_beside_that_of_clusters(ray_cluster, run):
    """Another ratio ranks nothing again; COINCIDE's ranking is another noun."""
    selected(run, label="first")
    made = run.noun("ranking", "by-task").manifest()
    assert (made.metrics["cells"], made.metrics["chunked_cells"]) == (run_cells(run), 0)
    selected(run, label="second", ratio=0.5, task_power=0.5)
    assert run.noun("ranking", "by-task").manifest() == made
    cells = run.noun("selection", "second").read_table("cells.parquet")
    assert sum(cells["quota"].to_pylist()) == round(0.5 * ROWS)
    clusters = run.noun("selection", "second").read_table("clusters.parquet")
    assert clusters["quota"].equals(clusters["kept"])
    assert sum(clusters["size"].to_pylist()) == ROWS


def run_cells(run: Run) -> int:
    """How many pairs of task and cluster there are."""
    tasks = dict(read_all(run.noun("samples")).select(["key", "task"]).to_pandas().itertuples(index=False))
    assigned = read_all(run.noun("clusters")).select(["key", "cluster"]).to_pandas()
    return len({(tasks[key], cluster) for key, cluster in assigned.itertuples(index=False)})


def test_a_starved_task_is_told_at_once(ray_cluster, tmp_path, caplog):
    """In one line of the log and the manifest, with what helps; inside the envelope nothing is starved or told."""
    run = Run(str(tmp_path / "run"))
    tasks = ["pari\nty"] * 40 + ["vqa"] * 160
    keys = sample_keys(200)
    write_samples(run, keys, tasks, shards=2)
    write_scores(run, "token_losses", {"key": keys, "loss": [9.0] * 40 + np.linspace(1, 2, 160).tolist()}, shards=2)
    low = {"method": "perplexity", "options": {"keep": "low"}}
    with caplog.at_level(logging.WARNING, "raycurate"):
        _, manifest = selected(run, **low, label="alone")
    told = "pari\\nty keeps 0 of 40 rows; --envelope keeps at least half of each task's share"
    assert told in caplog.text
    assert (manifest.metrics["notes"], manifest.metrics["starved"]) == ([told], {"pari\nty": [0, 40]})
    caplog.clear()
    kept, manifest = selected(run, **low, envelope=True, label="within")
    assert "keeps" not in caplog.text
    assert "notes" not in manifest.metrics
    table = {row["task"]: row for row in run.noun("selection", "within").read_table("tasks.parquet").to_pylist()}
    parity = table["pari\nty"]
    assert (parity["kept"], parity["kept_alone"], parity["share_alone"], parity["bound"]) == (6, 0, 0.0, "floor")
    assert (parity["fair_rows"], parity["share_after"], parity["drawn"]) == (12.0, 0.1, 2)
    assert table["vqa"]["kept"] == 54 == len(kept) - 6


def test_without_features_it_names_the_same_idea_that_needs_none(ray_cluster, tmp_path, case):
    """Which commands make the clusters, and which method does without."""
    bare = run_of(tmp_path / "bare", case, shards=1, clusters=False)
    with pytest.raises(UserError, match="raycurate extract.*raycurate cluster.*--method stratified.*without features"):
        selected(bare)
    assert len(selected(bare, method="stratified")[0]) == round(0.3 * ROWS)


def test_a_changed_default_is_told(ray_cluster, tmp_path, case, caplog):
    """A selection of another method that is made again without naming one: a warning with both names."""
    run = run_of(tmp_path / "run", case, shards=1)
    selected(run, method="coincide")
    with caplog.at_level(logging.WARNING, "raycurate"):
        selected(run, method="coincide", ratio=0.2)
        assert "made again" not in caplog.text
        selected(run, ratio=0.2)
    assert "was made by 'coincide' and is made again by 'balanced'" in caplog.text
    assert "`--method coincide` keeps to that one" in caplog.text
    with pytest.raises(UserError, match="temperature 0.1 is of the budget of COINCIDE"):
        selected(run, options={"temperature": 0.1})


def test_weights_are_known_by_their_content(ray_cluster, tmp_path, case, run):
    """From a file, by hand or of this run's balance the same rows; other content selects anew."""
    names = sorted(set(case.tasks))
    weights = {**dict.fromkeys(names, 1.0), "chat": 3.0}
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"weights": weights, "source": "CoTBal"}), encoding="utf-8")
    by_file, manifest = selected(run, task_weights=str(path), label="weighed")
    assert selected(run, task_weights=weights, label="by-hand")[0] == by_file
    assert selected(run, task_weights=str(path), label="weighed")[1] == manifest
    made = run.noun("balance", "own")
    made.begin({"stage": "balance", "inputs": {}, "made_from": {}})
    made.write_json("weights.json", {"weights": weights})
    made.finish()
    by_balance, manifest = selected(run, task_weights="balance/own", label="balanced-by")
    assert by_balance == by_file
    assert "balance/own" in manifest.description["made_from"]
    path.write_text(json.dumps({**weights, "chat": 0.1}), encoding="utf-8")
    other, _ = selected(run, task_weights=str(path), label="weighed")
    count = [Counter(dict(zip(case.case.keys, case.tasks, strict=True))[key] for key in k) for k in (by_file, other)]
    assert count[0]["chat"] > 2 * count[1]["chat"]
    for wrong, told in (
        ({"chat": 1.0}, "no weight for the tasks few, ocr, parity, vqa"),
        ({**weights, "chta": 1.0}, "unknown task in the weights 'chta'. Did you mean 'chat'"),
        ({**weights, "chat": -1.0}, "the weight of 'chat' is -1.0"),
        (str(tmp_path / "none.json"), "cannot read the weights"),
        ("balance/nothing", "raycurate balance"),
    ):
        with pytest.raises(UserError, match=told):
            selected(run, task_weights=wrong, label="wrong")
    with pytest.raises(UserError, match="method 'coincide' gives tasks no shares that task_power could set"):
        selected(run, method="coincide", task_power=0.5, label="wrong")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("0.4", (0.4, 2.0, 0.3)),
        ("0.5, inf ,0", (0.5, None, 0.0)),
        ([0.5, 3], (0.5, 3.0, 0.3)),
        ({"random_share": 0.1}, (0.5, 2.0, 0.1)),
        ({"cap": float("inf")}, (0.5, None, 0.3)),
        (True, (0.5, 2.0, 0.3)),
        ("on", (0.5, 2.0, 0.3)),
    ],
)
def test_an_envelope_is_said_in_many_ways(given, found):
    """As text, list, fields, or with its defaults; `off` is none."""
    made = make_config(SelectConfig, {"envelope": given}).envelope
    assert (made.floor, made.cap, made.random_share) == found
    assert make_config(SelectConfig, {"envelope": "off"}).envelope is None
    assert make_config(SelectConfig, {"envelope": False}).envelope is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("0.5,2,0.3,1", "are more than floor, cap, random_share"),
        ("1.5", "envelope.floor: Input should be less than or equal to 1"),
        ("0.5,0.9", "envelope.cap: Input should be greater than or equal to 1"),
        ("half", "envelope.floor: Input should be a valid number"),
        ({"flor": 1}, "Did you mean 'floor'"),
    ],
)
def test_a_wrong_envelope_is_explained(given, told):
    """By the field."""
    with pytest.raises(UserError, match=told):
        make_config(SelectConfig, {"envelope": given})


def test_a_balance_of_the_recipe_comes_before_the_selection_that_reads_it():
    """Only then; and `rank` makes the orders that the method reads."""
    values = {
        "run": "run",
        "ingest": {"source": "rows.json"},
        "cluster": {"clusters": 4},
        "validation": {"source": "test.json", "label": "val"},
        "balance": {"validation": "val"},
        "select": {"task_weights": "balance/main"},
        "rank": {"sigma": 0.5},
    }

    def order(**changes: dict) -> list[str]:
        recipe = make_config(Recipe, {**values, **changes})
        return [f"{name} {config.label}" if name == "rank" else name for name, _, config in steps_of(recipe)]

    assert order() == ["ingest", "extract", "cluster", "rank by-task", "validation", "balance", "select"]
    before = ["ingest", "extract", "cluster"]
    assert order(select={"method": "coincide"}) == [*before, "rank main", "select", "validation", "balance"]
    both = order(select={"options": {"within": "coincide"}})
    assert both == [*before, "rank main", "rank by-task", "select", "validation", "balance"]
    with pytest.raises(UserError, match="select: method 'el2n' gives tasks no shares that task_power could set"):
        order(select={"method": "el2n", "task_power": 0.5})


@pytest.mark.slow
def test_kills_in_ranking_and_selecting_do_not_change_the_answer(ray_cluster, tmp_path):
    """kill -9 on the cluster while rows are brought to their cells, then while shards are decided: a calm run's rows.

    The command on the cluster stands for all orders, whose steps share one engine; theirs are killed without one.
    """
    made = tasked_case(11, rows=900, clusters=12)
    settings = {"envelope": True, "task_power": 0.5, "max_tasks": 2}
    calm = selected(run_of(tmp_path / "calm", made, shards=30), **settings)[0]
    run = run_of(tmp_path / "struck", made, shards=30)
    ranking, selection = run.noun("ranking", "by-task"), run.noun("selection")
    command = ("select", run.uri, "--ratio", "0.3", "--envelope", "--task-power", "0.5", "--set", "max_tasks=2")

    def steps(step: str) -> int:
        return len(list(Path(ranking.folder).glob(f"work/{step}/*.json")))

    kill_when(start(*command), lambda: steps("cells") == 30 and steps("routed") >= 2)
    assert ranking.manifest() is None
    kill_at_commit("*/selection/main/part-*", 2, *command)
    assert len(selection.records()) == 2
    before = ranking.require("rank")
    assert selected(run, **settings)[0] == calm
    assert ranking.manifest() == before
