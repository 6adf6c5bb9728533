"""What is foreseen of a stage: noted when it begins, in its manifest when it ends, and what comes next."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.config import ClusterConfig, IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.estimate.rates import DEFAULT_RATES, RATES_VARIABLE
from raycurate.estimate.work import Work
from raycurate.run.store import Run
from raycurate.stages.cluster import cluster
from raycurate.stages.engine import source_check
from raycurate.stages.engine.foreseen import foresee, size_of
from raycurate.stages.engine.next_step import next_steps
from raycurate.stages.engine.status import status
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests.nouns import write_clusters, write_features


@pytest.fixture
def run(tmp_path):
    """Samples of 40 rows, ingested in this process."""
    rows = [{"id": str(n), "question": "What?", "answer": f"{n}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = Run(str(tmp_path / "run"))
    ingest(made, IngestConfig(source=str(tmp_path / "rows.jsonl")))
    return made


def begun(run):
    noun = run.noun("features")
    noun.begin({"stage": "extract", "config": {}})
    return noun


def test_an_estimate_is_in_the_manifest_beside_the_seconds(run):
    noun = begun(run)
    foresee(noun, lambda rates: Work(rows=1, core_seconds=6.0), cpus=2.0)
    assert noun.finish().estimated_seconds == 3.0


def test_finished_stages_without_a_cluster_have_one(run):
    select(run, SelectConfig(method="random", ratio=0.5))
    found = [run.noun(name).manifest().estimated_seconds for name in ("samples", "selection")]
    assert all(0 < seconds < 5 for seconds in found)


def test_another_estimate_does_not_date_a_noun_anew(run, monkeypatch, tmp_path):
    before = run.noun("samples").manifest()
    rates = {**DEFAULT_RATES.to_json(), "parse_row_seconds": 1.0}
    (tmp_path / "rates.json").write_text(json.dumps(rates), encoding="utf-8")
    noun = run.noun("samples")
    monkeypatch.setenv(RATES_VARIABLE, str(tmp_path / "rates.json"))
    foresee(noun, lambda rates: Work(rows=1, core_seconds=rates.parse_row_seconds), cpus=1.0)
    assert noun.finish(metrics=before.metrics) == before
    assert noun.read_json("work.json")["estimated_seconds"] == 1.0


def test_rates_that_cannot_be_read_end_no_stage(run, monkeypatch, caplog):
    monkeypatch.setenv(RATES_VARIABLE, "/not/here.json")
    noun = begun(run)
    foresee(noun, lambda _: Work(rows=1), cpus=1.0)
    assert noun.finish().estimated_seconds is None
    assert "no estimate of features/main: cannot read the rates" in caplog.text


def test_a_model_of_which_something_cannot_be_told_has_no_size(run):
    assert size_of(object(), object(), "strange", run.noun("samples")) is None


def test_the_next_stage_is_the_one_that_is_not_there(run):
    (step,) = next_steps(run, status(run))
    assert (step.command, step.why, step.seconds) == (f"extract {run.uri} --model MODEL", "next", None)


def test_the_rest_of_an_interrupted_stage_follows_from_its_rate(run):
    noun = begun(run)
    noun.write_json("progress.json", {"state": "stopped", "time": 0.0, "total": 100})
    (line,) = [each for each in status(run) if each.state == "interrupted"]
    (step,) = next_steps(run, [line])
    assert step.why == "features/main was interrupted"
    assert step.command == f"extract {run.uri}"
    noun.foresee(50.0)
    noun.add_seconds(20.0)
    assert next_steps(run, [line])[0].seconds == pytest.approx(50.0)


def test_status_shows_what_was_foreseen_and_what_comes_next(run):
    done = CliRunner().invoke(main, ["status", run.uri])
    assert "foreseen" in done.output
    assert "next: raycurate extract" in done.output


def test_status_goes_on_where_a_source_cannot_be_reached(run, monkeypatch):
    """It is asked for once, and said of the samples; they count as done, and so does what was made from them."""
    select(run, SelectConfig(method="random", ratio=0.5))
    asked = []

    def look_at(uri):
        asked.append(uri)
        raise OSError("no way to the bucket")

    monkeypatch.setattr(source_check, "look_at", look_at)
    lines = {line.name: line for line in status(run)}
    assert len(asked) == 1
    assert {line.state for line in lines.values()} == {"done"}
    assert lines["samples/main"].unreached == "no way to the bucket"
    assert lines["selection/main"].unreached == ""
    told = CliRunner().invoke(main, ["status", run.uri])
    assert told.exit_code == 0
    assert "whether samples/main is made from what is there now: no way to the bucket" in told.output


def test_rows_are_not_counted_in_other_units(run):
    """A clustering goes over all rows many times: its total is no number of rows."""
    noun = run.noun("clusters")
    noun.begin({"stage": "cluster", "config": {}})
    for unit, total in (("row passes", None), ("rows", 900)):
        noun.write_json("progress.json", {"state": "running", "time": time.time(), "total": 900, "unit": unit})
        assert [line.total for line in status(run) if line.state == "running"] == [total]


def test_a_clustering_has_an_estimate_and_a_selection_comes_next(ray_cluster, run):
    keys = [key for part in run.noun("samples").iter_parts(["key"]) for key in part["key"].to_pylist()]
    rows_ND = np.random.default_rng(0).normal(size=(40, 16))
    write_features(run, keys, (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float16))
    made = cluster(run, ClusterConfig(clusters=2, iterations=2))
    assert made.estimated_seconds > 0
    (step,) = next_steps(run, status(run))
    assert step.command == f"select {run.uri} --ratio 0.2"
    assert step.seconds > 0


def test_what_is_stale_is_made_again_with_its_own_settings(run, tmp_path):
    """The commands that `status` shows do what they say, as they stand."""
    select(run, SelectConfig(method="random", ratio=0.25, label="few", options={}, where="task = 'unknown'"))
    (tmp_path / "rows.jsonl").write_text('{"question": "Who?", "answer": "You."}\n' * 12, encoding="utf-8")
    where = shlex.quote("where=task = 'unknown'")
    commands = [step.command for step in next_steps(run, status(run))]
    assert commands == [
        f"ingest {tmp_path}/rows.jsonl --out {run.uri}",
        f"select {run.uri} --label few --set method=random --set ratio=0.25 --set {where}",
    ]
    for command in commands:
        done = CliRunner().invoke(main, shlex.split(command))
        assert done.exit_code == 0, done.output
    assert run.noun("selection", "few").manifest().metrics["kept"] == 3
    assert {line.state for line in status(run)} == {"done"}


def test_of_a_stale_stage_only_the_rows_that_it_lacks_take_time(run, tmp_path):
    """Features of ten more rows take a quarter of what those of forty took; a clustering is made of all fifty."""
    keys = [key for part in run.noun("samples").iter_parts(["key"]) for key in part["key"].to_pylist()]
    rows_ND = np.eye(40, 16, dtype=np.float16)
    write_features(run, keys, rows_ND)
    write_clusters(run, keys, rows_ND, np.zeros(40, dtype=int), np.eye(1, 16), shards=1)
    (tmp_path / "more.jsonl").write_text('{"question": "Who?", "answer": "You."}\n' * 10, encoding="utf-8")
    ingest(run, IngestConfig(source=str(tmp_path / "more.jsonl"), append=True))
    lines = [replace(line, seconds=8.0) for line in status(run)]
    assert {line.name: line.missing for line in lines} == {"samples/main": 0, "features/main": 10, "clusters/main": 50}
    assert [step.seconds for step in next_steps(run, lines)] == [2.0, 10.0]
    run.noun("features").filesystem.delete_file(run.noun("features").part_path(0))
    assert {line.name: line.missing for line in status(run)}["features/main"] == 50


def test_an_append_that_was_interrupted_is_named_as_one(run, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"other": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no row of"):
        ingest(run, IngestConfig(source=str(tmp_path / "bad.jsonl"), append=True))
    (step,) = next_steps(run, status(run))
    assert step.command == f"ingest {tmp_path}/bad.jsonl --out {run.uri} --append"
