"""The tables of a sweep follow from its outcomes by arithmetic."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import pytest

from raycurate.evaluation import Column
from raycurate.evaluation.evidence import Answers
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.grid import grid
from raycurate.experiments.engine.probes import ProbeResult
from raycurate.experiments.engine.results import (
    Outcome,
    Sweep,
    result_rows,
    scoreboard,
    task_rows,
    timing_rows,
    to_csv,
    write_results,
)
from raycurate.run.store import Run
from raycurate.settings import make_config

TASKS = {"vqa": 60, "caption": 30, "text": 10}


def _trained(vqa: float, error: float, seconds: float) -> ProbeResult:
    return ProbeResult(
        label="probe",
        rows=10,
        steps=2,
        loss=1.0,
        scores={"vqa": {"exact_match": vqa, "other": 0.5}, "caption": {"error": error}},
        headlines={"vqa": {"exact_match": True}, "caption": {"error": False}},
        training_seconds=seconds,
        evaluation_seconds=5.0,
    )


@pytest.fixture
def swept() -> Sweep:
    """'full' and two ratios of random, trained."""
    config = make_config(
        SweepConfig, {"methods": ["full", "random"], "ratios": [0.1, 0.2], "finetune": {}, "price_per_hour": 3600.0}
    )
    full, tenth, fifth = grid(config)
    measured = {"clusters": 4, "mmd2": 0.01, "mmd2_error": 0.001, "seconds": {"selection": 2.0, "statistics": 1.0}}
    ten = {**measured, "kept": 10, "target": 10, "clusters_covered": 3, "tasks": {"vqa": 5, "caption": 5}}
    twenty = {**measured, "kept": 20, "target": 20, "clusters_covered": 4, "tasks": {"vqa": 20, "caption": 0}}
    outcomes = [
        Outcome(full, None, _trained(0.5, 0.2, 100.0), {"features": 8.0}),
        Outcome(tenth, ten, _trained(0.4, 0.2, 10.0), {"features": 8.0}),
        Outcome(fifth, twenty, _trained(0.5, 0.1, 20.0), {"features": 8.0}),
    ]
    return Sweep(config, outcomes, [[1.0, 0.25], [0.25, 1.0]], TASKS)


def test_scores_are_relative_to_full(swept):
    """Rel.% is the mean over tasks, an error counts the other way round, the reference has 100."""
    rows = result_rows(swept, scoreboard(swept, {}))
    assert [row["rel_percent"] for row in rows] == pytest.approx([100.0, 90.0, 125.0])
    assert [row["vqa/exact_match"] for row in rows] == [0.5, 0.4, 0.5]
    assert "vqa/other" not in rows[0]


def test_statistics_are_those_of_the_kept_rows(swept):
    """Tasks covered, effective tasks, clusters, overlap; 'full' keeps all and has no selection to overlap."""
    full, tenth, fifth = result_rows(swept, scoreboard(swept, {}))
    assert [(row["kept"], row["tasks"], row["all_tasks"]) for row in (full, tenth, fifth)] == [
        (100, 3, 3),
        (10, 2, 3),
        (20, 1, 3),
    ]
    assert tenth["effective_tasks"] == pytest.approx(2)
    assert (tenth["cluster_share"], fifth["cluster_share"]) == (0.75, 1)
    assert [row["mean_jaccard"] for row in (full, tenth, fifth)] == [None, 0.25, 0.25]
    shares = [(row["task"], row["share_after"]) for row in task_rows(swept)]
    assert shares[:3] == [("vqa", 0.5), ("caption", 0.5), ("text", 0)]


def test_cost_is_selection_what_it_needs_and_training(swept):
    """Evaluation and statistics are not part of it."""
    rows = timing_rows(swept)
    assert [row["cost_seconds"] for row in rows] == [108.0, 20.0, 30.0]
    assert rows[1]["cost"] == 20.0


def test_figures_are_files_that_stand_alone_and_the_same_again(swept, tmp_path):
    """Scores, cost with the front and shares at each budget: SVG with its style; bytes repeat; old ones go."""
    noun = Run(str(tmp_path)).noun("sweeps")
    noun.begin({})
    folder = tmp_path / "sweeps/main/figures"
    folder.mkdir(parents=True)
    (folder / "old.svg").touch()
    write_results(noun, swept, Answers())
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = ("distances", "pareto", "scores", "shares")
    assert set(made) == {f"{name}-{ratio}.svg" for name in names for ratio in ("0.1", "0.2")}
    for data in made.values():
        assert ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
        assert b"<style>" in data
    assert b"random: 90 for 20" in made["pareto-0.1.svg"]
    write_results(noun, swept, Answers())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def test_missing_values_are_empty_cells(swept):
    """A line of 'full' has no distance; the columns are those of the others."""
    header, full, *_ = to_csv(result_rows(swept, scoreboard(swept, {}))).splitlines()
    assert full.split(",")[header.split(",").index("mmd2")] == ""


RIGHT = {"luck": [i % 2 for i in range(200)], "skill": [i % 5 > 0 for i in range(200)]}
SAID = {"luck": ["no"] * 50 + ["yes"] * 150, "skill": [str(i) for i in range(200)]}


def test_groups_are_weighed_against_the_stratified_draw_of_their_ratio(tmp_path):
    """And a task on which 'full' guesses does not count in Rel.%; both are written where the tables lie."""
    methods = ["full", "stratified", "random"]
    config = make_config(SweepConfig, {"methods": methods, "ratios": [0.1, 0.2], "seeds": [0, 1], "finetune": {}})
    columns = [Column("luck", "exact_match"), Column("skill", "exact_match")]
    rows = [
        {
            **{"key": f"{task}{i}", "turn": 0, "task": task, "image": str(i)},
            **{"references": [SAID[task][i]], "scores": {"exact_match": float(good)}},
        }
        for task, own in RIGHT.items()
        for i, good in enumerate(own)
    ]
    scores = {"luck": {"exact_match": 0.5}, "skill": {"exact_match": 0.8}}
    headlines = {task: {"exact_match": True} for task in scores}
    trained = dataclasses.replace(_trained(0, 0, 1), scores=scores, headlines=headlines)
    measured = {"seconds": {"selection": 1.0, "statistics": 1.0}, "target": 1, "tasks": {"luck": 1}}
    answers, outcomes = Answers(), []
    for trial in grid(config):
        answers.add(trial.group, trial.seed, rows, columns)
        outcomes.append(Outcome(trial, None if trial.is_full else measured, trained))
    noun = Run(str(tmp_path / "run")).noun("sweeps")
    noun.begin({"stage": "sweep"})
    write_results(noun, Sweep(config, outcomes, [[1.0] * 8 for _ in range(8)], {"luck": 1, "skill": 1}), answers)
    found = noun.read_json("evidence.json")
    assert list(found["at_chance"]) == ["luck"]
    assert {group: each["against"] for group, each in found["differences"].items()} == {
        f"random r={ratio}": f"stratified r={ratio}" for ratio in (0.1, 0.2)
    }
    assert found["differences"]["random r=0.2"]["percent"] == 0
    assert "left out of Rel.% in every line: luck" in (tmp_path / "run/sweeps/main/scoreboard.md").read_text("utf-8")
