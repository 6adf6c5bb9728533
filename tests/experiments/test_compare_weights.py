"""`compare-weights`: each single-task model stands for its task, and the relative scores are the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.experiments.compare_weights import build_board, compare_weights
from raycurate.experiments.engine.probes import ProbeResult
from raycurate.experiments.engine.weights_config import CompareWeightsConfig
from raycurate.settings import make_config
from tests.experiments.task_runs import EVALUATE, FINETUNE, write_samples
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS


def result(**scores: float) -> ProbeResult:
    """A probe with these scores."""
    return ProbeResult(
        label="x",
        rows=1,
        steps=1,
        loss=0.0,
        scores={task: {"m": score} for task, score in scores.items()},
        headlines={task: {"m": True} for task in scores},
        training_seconds=2.0,
    )


def test_delta_and_error_against_single_task_models():
    """Eqs. 12 to 14 by hand, against the mean of the seeds of STL, each task's score from its own model."""
    board = build_board(
        {
            ("EW", 0): [result(a=0.6, b=0.2)],
            ("EW", 1): [result(a=0.5, b=0.4)],
            ("STL", 0): [result(a=0.4), result(b=0.5)],
            ("STL", 1): [result(a=0.6), result(b=0.3)],
        }
    )
    assert [method.method for method in board.methods] == ["STL", "EW"]
    assert board.lines[0].scores == (0.4, 0.5)
    assert board.lines[0].figures["wall_seconds"] == 4.0
    first, second = (line.figures for line in board.lines[2:])
    assert first["delta_percent"] == pytest.approx(100 / 2 * (0.1 / 0.5 - 0.2 / 0.4))
    assert first["error_percent"] == pytest.approx(100 / 2 * (0.2 / 0.4))
    assert second["delta_percent"] == pytest.approx(0)
    mean = board.methods[1].figures["delta_percent"]
    assert mean.mean == pytest.approx(first["delta_percent"] / 2)
    assert mean.n == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "needs weights"),
        ({"weightings": ["ew"], "weights": {"a": 1}}, "'cotbal', and no other, needs weights"),
        ({"weightings": ["ew", "ew"]}, "a value twice"),
        ({"weightings": ["ew"], "data": "main"}, "scored on its own rows"),
        ({"weightings": ["ew"], "finetune": {"weights": {}}}, "finetune.weights is set by the experiment"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    """Before any work."""
    with pytest.raises(UserError, match=told):
        make_config(CompareWeightsConfig, settings)


def test_every_weighting_is_trained_and_scored_on_the_test_set(ray_cluster, tmp_path):
    """Two weightings and three single-task models: a board with Delta% and E%, and what each line was."""
    run = write_samples(tmp_path / "run", main=range(24), test=range(100, 112))
    model = str(make_tiny_vlm("llava", tmp_path / "model"))
    settings = {
        "weightings": ["tla", "cotbal"],
        "weights": {TASKS[0]: 0.5, TASKS[1]: 1.0, TASKS[2]: 2.0},
        "seeds": [0],
        "max_concurrent": 1,
        "rows_per_task": 4,
        "finetune": {**FINETUNE, "model": model},
        "evaluate": EVALUATE,
    }
    with pytest.raises(UserError, match="no weight for the task text"):
        compare_weights(run, make_config(CompareWeightsConfig, {**settings, "weights": {TASKS[0]: 1, TASKS[1]: 1}}))
    compare_weights(run, make_config(CompareWeightsConfig, settings))
    folder = Path(run.uri) / "weightings" / "main"
    lines = {line["method"]: line["probes"] for line in json.loads((folder / "lines.json").read_text())}
    assert [len(lines[method]) for method in ("TLA", "CoTBal", "STL")] == [1, 1, 3]
    assert {task for probe in lines["STL"] for task in probe["scores"]} == set(TASKS)
    assert all(list(probe["tasks"]) and len(probe["scores"]) == 1 for probe in lines["STL"])
    assert lines["CoTBal"][0]["tasks"][TASKS[2]]["weight"] == 2.0
    assert lines["CoTBal"][0]["rows"] == 12
    text = (folder / "scoreboard.md").read_text()
    assert "Delta% over STL" in text
    assert "E% over STL" in text
