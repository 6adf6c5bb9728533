"""Scaling: nested subsets, the projector alone, the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.experiments.scaling import ScalingConfig, measure_scaling, summarize
from raycurate.run.store import Run
from raycurate.settings import make_config
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import write_run

FINETUNE = {"learning_rate": 0.003, "batch_rows": 8, "micro_batch": 8, "threads": 1}


def test_sizes_are_summed_up_over_seeds():
    """Mean, sample deviation, and the gain over the size before; one seed has no deviation."""
    rows = [{"size": n, "seed": s, "score": n + s} for n in (10, 20) for s in (0, 2)]
    assert summarize(rows) == [
        {"size": 10, "seeds": 2, "score": 11, "sd": pytest.approx(2**0.5), "gain": None},
        {"size": 20, "seeds": 2, "score": 21, "sd": pytest.approx(2**0.5), "gain": 10},
    ]
    assert summarize(rows[:1])[0]["sd"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": [10]}, "at least 2 items"),
        ({"sizes": [20, 10]}, "must be 1 or more and ascend"),
        ({"sizes": [1, 2], "stage": "pretrain", "finetune": {"method": "full"}}, "finetune.method is set by"),
        ({"sizes": [1, 2], "finetune": {"mixture": []}}, "finetune.mixture is set by"),
    ],
)
def test_settings_that_do_not_fit(values, message):
    with pytest.raises(UserError, match=message):
        make_config(ScalingConfig, values)


def test_a_pretraining_curve(ray_cluster, tmp_path):
    """Each size has its rows and steps; all rows are an allowed size, one more is not."""
    run: Run = write_run(tmp_path / "run", 24)
    model = str(make_tiny_vlm("llava", tmp_path / "model"))
    values = {
        "sizes": [8, 24],
        "stage": "pretrain",
        "data": "main",
        "finetune": {**FINETUNE, "model": model},
        "evaluate": {"max_rows": 6, "max_new_tokens": 2},
    }
    measure_scaling(run, make_config(ScalingConfig, values))
    folder = Path(run.noun("scaling").folder)
    lines = list(csv.DictReader(io.StringIO((folder / "trainings.csv").read_text())))
    assert [(line["size"], line["steps"]) for line in lines] == [("8", "1"), ("24", "3")]
    assert lines[0]["loss"] != lines[1]["loss"]
    assert {"scaling.svg"} == {path.name for path in (folder / "figures").iterdir()}
    with pytest.raises(UserError, match="25 rows are asked for, and 24 can be trained on"):
        measure_scaling(run, make_config(ScalingConfig, {**values, "sizes": [8, 25]}))
