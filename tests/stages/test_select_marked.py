"""Marked rows are never kept, budgets stay exact, and a selection knows which marks it was made with."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.config import ExportConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.cleaning.marks import MARKS_SCHEMA, commit_marks, finish_marks
from raycurate.stages.engine.shards import map_here
from raycurate.stages.engine.status import status
from raycurate.stages.export import export
from raycurate.stages.select import select
from tests.nouns import read_all, write_clusters, write_features, write_samples, write_scores
from tests.selection.selection_cases import clustered_case

CASE = clustered_case(5, rows=90, clusters=4)
TASKS = [f"task {'aaaabbc'[i % 7]}" for i in range(90)]
MARKED = {key: f"reason {i % 2}" for i, key in enumerate(sorted(CASE.keys)[::3])}


def write_marks(run: Run, marked: dict[str, str], label: str = "dedup", like: str | None = None) -> None:
    """Marks of some rows, as `dedup` leaves them."""
    import pyarrow as pa

    samples = run.noun("samples")
    manifest = samples.require("x")
    noun = run.noun("marks", label)
    description = {"stage": "dedup", "stage_version": 1, "config": {"samples": "main", "of": sorted(marked)}}
    noun.begin({**description, "made_from": {"samples/main": manifest.fingerprint}})
    for shard in range(manifest.shards):
        rows = samples.read_part(shard, ["key", "source_id"])
        common = {"similarity": 1.0, "like": like, "like_source_id": like}
        values = [{**row, "reason": marked.get(row["key"]), **common} for row in rows.to_pylist()]
        commit_marks(noun, shard, pa.Table.from_pylist(values, schema=MARKS_SCHEMA))
    finish_marks(noun, {})


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run(str(tmp_path / "run"))
    write_samples(run, CASE.keys, TASKS, shards=3)
    for label in ("main", "last_token"):
        write_features(run, CASE.keys, CASE.features, shards=3, block_dim=CASE.block_dim, label=label)
        write_clusters(run, CASE.keys, CASE.features, CASE.labels, CASE.centroids, shards=3, label=label)
    losses = {"loss": [0.01 * (i % 13) for i in range(90)], "loss_blind": [0.3] * 90, "answer_tokens": [4] * 90}
    write_scores(run, "token_losses", {"key": CASE.keys, **losses, "el2n": losses["loss"]}, shards=3)
    return run


def rows_of(run: Run, **settings) -> dict[str, dict]:
    values = {"method": "random", "ratio": 0.4, **settings}
    select(run, make_config(SelectConfig, values), map_here)
    return {row["key"]: row for row in read_all(run.noun("selection", settings.get("label", "main"))).to_pylist()}


METHODS = ["random", "stratified", "balanced", "coincide", "perplexity", "semdedup", "el2n", "visual_gain"]


@pytest.mark.parametrize("envelope", [None, "0.5,2,0.3"])
@pytest.mark.parametrize("method", METHODS)
def test_no_method_keeps_a_marked_row(ray_cluster, run, method, envelope):
    """The budget is that of all rows, every marked row says why it is none, and nothing is lost."""
    write_marks(run, MARKED)
    rows = rows_of(run, method=method, envelope=envelope)
    assert len(rows) == 90
    kept = {key for key, row in rows.items() if row["kept"]}
    assert len(kept) == round(0.4 * 90)
    assert not kept & set(MARKED)
    assert {key: rows[key]["reason"] for key in MARKED} == MARKED
    assert not {row["reason"] for key, row in rows.items() if key not in MARKED} & set(MARKED.values())
    table = run.noun("selection").read_table("tasks.parquet")
    assert sum(table["kept"].to_pylist()) == len(kept)
    assert sum(table["marked"].to_pylist()) == len(MARKED)


@pytest.mark.parametrize("method", METHODS)
def test_without_marks_nothing_is_different(ray_cluster, run, method):
    """Marks that mark nothing, or that are left aside, give the very rows of no marks at all."""
    plain = rows_of(run, method=method)
    write_marks(run, {})
    assert rows_of(run, method=method) == plain
    write_marks(run, MARKED)
    assert rows_of(run, method=method, marks=()) == plain


def test_orders_are_those_without_the_marked_rows(ray_cluster, run):
    """Of each cell `balanced` keeps the first rows of its order that are not marked."""
    write_marks(run, MARKED)
    rows = rows_of(run, method="balanced").values()
    for cell in {(row["task"], row["cluster"]) for row in rows}:
        own = sorted((r for r in rows if (r["task"], r["cluster"]) == cell and r["key"] not in MARKED), key=_rank)
        assert [row["kept"] for row in own] == sorted((row["kept"] for row in own), reverse=True)


def _rank(row: dict) -> int:
    return row["rank"]


def test_several_marks_are_honoured_together(run):
    """The first by label says why."""
    keys = sorted(CASE.keys)
    write_marks(run, {keys[0]: "one", keys[1]: "one"})
    write_marks(run, {keys[1]: "two", keys[2]: "two"}, "decontaminate")
    rows = rows_of(run, ratio=0.9)
    assert [rows[key]["reason"] for key in keys[:3]] == ["one", "two", "two"]
    assert sum(row["kept"] for row in rows.values()) == 81
    only = rows_of(run, ratio=0.9, marks=("dedup",), label="only")
    assert only[keys[2]]["reason"] in ("drawn", "not_drawn")


def test_more_than_remain_is_an_error(run):
    """It says how many there are and which ratio can be had."""
    write_marks(run, MARKED)
    with pytest.raises(UserError, match=r"keeps 72, and 30 are marked: 60 remain. Lower the ratio to 0.667 or less"):
        rows_of(run, ratio=0.8)
    assert sum(row["kept"] for row in rows_of(run, ratio=2 / 3).values()) == 60


def test_marks_that_come_or_change_make_a_selection_stale(run, tmp_path):
    """Later stages refuse it, `status` says why, and selecting again makes it current."""
    rows_of(run)
    write_marks(run, MARKED)
    out = make_config(ExportConfig, {"out": str(tmp_path / "out.json")})
    with pytest.raises(UserError, match=r"made before 'marks/dedup'.*Run `raycurate select .*` again"):
        export(run, out)
    assert {line.name: line.state for line in status(run)}["selection/main"] == "stale"
    rows_of(run)
    assert export(run, out) == 36
    before = run.noun("selection").require("x")
    assert before.description["made_from"]["marks/dedup"] == run.noun("marks", "dedup").require("x").fingerprint
    write_marks(run, {})
    with pytest.raises(UserError, match="made from an earlier 'marks/dedup'"):
        export(run, out)
    rows_of(run)
    assert run.noun("selection").require("x").fingerprint != before.fingerprint


def test_marks_of_earlier_samples_are_told_with_both_ways_on(run):
    """Make them again, or choose without them."""
    write_marks(run, MARKED)
    write_samples(run, CASE.keys[:60], TASKS[:60], shards=3)
    with pytest.raises(UserError, match=r"changed since. Run `raycurate dedup .*` again, or .*--ignore-marks"):
        rows_of(run, ratio=0.5)
    assert sum(row["kept"] for row in rows_of(run, ratio=0.5, marks=()).values()) == 30


def test_a_selection_that_ignores_marks_stays_current(run, tmp_path):
    """Marks that come later are none of its own."""
    output = CliRunner().invoke(main, ["--quiet", "select", run.uri, "--method", "random", "--ignore-marks"])
    assert output.exit_code == 0, output.output
    write_marks(run, MARKED)
    assert export(run, make_config(ExportConfig, {"out": str(tmp_path / "out.json")})) == 18
    assert {line.name: line.state for line in status(run)}["selection/main"] == "done"


def test_marks_of_other_samples_are_none_of_these(run):
    """Only marks of the samples that are selected from count; those of an earlier state of them are an error."""
    write_marks(run, MARKED)
    path = run.noun("marks", "dedup")
    manifest = path.read_json("manifest.json")
    manifest["description"]["config"]["samples"] = "test"
    path.write_json("manifest.json", manifest)
    assert not any(row["reason"] in MARKED.values() for row in rows_of(run).values())
    manifest["description"]["config"]["samples"] = "main"
    manifest["description"]["made_from"]["samples/main"] = "0" * 32
    path.write_json("manifest.json", manifest)
    with pytest.raises(UserError, match=r"'marks/dedup' was made from an earlier 'samples/main'.*raycurate dedup"):
        rows_of(run)


def test_names_of_marks_that_are_not_there_are_an_error(run):
    with pytest.raises(UserError, match="no finished 'marks/other'"):
        rows_of(run, marks=("other",))
