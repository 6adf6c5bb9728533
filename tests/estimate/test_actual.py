"""Finished stages of a run beside their estimates."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.config import ExtractConfig, IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.estimate.actual import estimate_run
from raycurate.estimate.places import this_machine
from raycurate.estimate.plan import Planner
from raycurate.estimate.rates import DEFAULT_RATES
from raycurate.run.store import Run
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests.nouns import write_samples

CONFIGS = {"ingest": IngestConfig, "extract": ExtractConfig, "select": SelectConfig}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Forty samples and a selection, made in this process, and a noun of a stage without a formula."""
    folder = tmp_path_factory.mktemp("actual")
    rows = [{"id": str(n), "question": "What?", "answer": f"{n}"} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = Run(str(folder / "run"))
    ingest(made, IngestConfig(source=str(folder / "rows.jsonl")))
    select(made, SelectConfig(method="random", ratio=0.5))
    other = made.noun("sketches")
    other.begin({"stage": "sketch"})
    other.finish()
    return made


def found_of(run, rates=DEFAULT_RATES):
    return {each.stage: each for each in estimate_run(Planner(this_machine(2), rates), run, CONFIGS)}


def test_every_finished_stage_has_what_it_took(run):
    found = found_of(run)
    assert list(found) == ["ingest", "select", "sketch"]
    for name, noun in (("ingest", "samples"), ("select", "selection")):
        assert found[name].actual == run.noun(noun).manifest().seconds > 0
        assert found[name].ratio == pytest.approx(found[name].seconds / found[name].actual)
        assert found[name].rows == 40


def test_features_that_the_command_made_itself_started_no_workers(run):
    """Their parts name no node; the same on a cluster has the start of its workers besides."""
    features = run.noun("features")
    found = []
    for node in ("", "node-1"):
        features.begin({"stage": "extract", "config": ExtractConfig(model="tiny").determining(), "node": node})
        features.finish(metrics={"dimension": 1280, "rows_by_node": {node: 40}})
        found.append(found_of(run)["extract"])
    features.clear()
    here, there = found
    assert there.parts == here.parts
    assert there.seconds - here.seconds == pytest.approx(here.parts["starting"])
    assert here.parts["starting"] > 0


def test_a_stage_without_a_formula_has_no_ratio(run):
    sketch = found_of(run)["sketch"]
    assert (sketch.seconds, sketch.ratio) == (None, None)
    assert sketch.notes == ("sketches/main is not estimated",)


def test_the_table_has_both_and_their_ratio(run):
    done = CliRunner().invoke(main, ["estimate", run.uri])
    assert done.exit_code == 0
    assert "took" in done.output
    assert "ratio" in done.output


def test_a_run_takes_no_settings_of_a_recipe(run):
    done = CliRunner().invoke(main, ["estimate", run.uri, "--set", "select.ratio=0.1"])
    assert done.exit_code == 1
    assert "--set changes a recipe" in " ".join(done.output.split())


def test_a_run_of_which_nothing_is_finished_is_told(tmp_path):
    begun = Run(str(tmp_path / "run"))
    begun.noun("samples").begin({"stage": "ingest"})
    with pytest.raises(UserError, match=f"no stage of {begun.uri} is finished"):
        found_of(begun)


def test_samples_without_rows_leave_the_other_stages_theirs(tmp_path):
    """All rows of some samples may have been forgotten."""
    made = Run(str(tmp_path / "run"))
    write_samples(made, [], [])
    write_samples(made, [f"{1:032x}-0"], ["t"], label="val")
    select(made, SelectConfig(method="random", ratio=1.0, samples="val"))
    found = {
        (each.stage, each.label): each for each in estimate_run(Planner(this_machine(2), DEFAULT_RATES), made, CONFIGS)
    }
    assert found["ingest", "main"].notes == ("samples/main has no rows",)
    assert found["select", "main"].seconds > 0
