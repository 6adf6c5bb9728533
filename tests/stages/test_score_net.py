"""`finetune` with a score-net: the difficulty of every row, and the method that reads it."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_of_table
from raycurate.settings import make_config
from raycurate.stages.finetune import finetune
from raycurate.stages.select import select
from raycurate.training.config import FinetuneConfig
from tests.nouns import read_all
from tests.tiny_vlms import make_tiny_vlm
from tests.training.test_score_net import ROWS, write_scored_run


def test_a_finetune_with_a_score_net_scores_every_row_for_self_filter(ray_cluster, tmp_path):
    """Difficulty is -theta . x, a row without features is quarantined, and self_filter reads it without being told."""
    run, model = write_scored_run(tmp_path / "run"), str(make_tiny_vlm("llava", tmp_path / "model"))
    values = {"model": model, "selection": None, "method": "full", "score_net": "clip", "max_steps": 3}
    values |= {"batch_rows": 8, "learning_rate": 1e-2, "schedule": "constant", "threads": 1, "trackers": []}
    with pytest.raises(UserError, match="--selection none --score-net clip"):
        select(run, make_config(SelectConfig, {"method": "self_filter"}))
    trained = finetune(run, make_config(FinetuneConfig, values), in_process=True)
    noun = run.noun("row_scores", "score_net")
    scored = noun.require("finetune")
    assert (scored.rows_in, scored.rows_out, scored.quarantined) == (ROWS, ROWS - 1, {"no_features": 1})
    assert scored.seconds >= trained.metrics["seconds"]
    theta_D = safetensors.numpy.load_file(f"{run.noun('models').folder}/final/score_net.safetensors")["theta"]
    assert np.abs(theta_D).max() > 0
    features = read_all(run.noun("features", "clip")).sort_by("key")
    found = read_all(noun).sort_by("key")
    expected_N = -features_of_table(features).astype(np.float64) @ theta_D
    np.testing.assert_allclose(found["difficulty"].to_numpy(), expected_N, rtol=1e-12)
    selected = select(run, make_config(SelectConfig, {"method": "self_filter", "ratio": 0.25}))
    assert selected.metrics["kept"] == ROWS // 4
    hardest = found["key"].to_pylist()[int(np.argmax(found["difficulty"].to_numpy()))]
    rows = read_all(run.noun("selection")).to_pylist()
    assert next(row for row in rows if row["key"] == hardest)["rank"] == 0
    finetune(run, make_config(FinetuneConfig, values), in_process=True)
    assert noun.require("finetune").created == scored.created


def test_a_score_net_without_its_features_names_the_command(ray_cluster, tmp_path):
    run = write_scored_run(tmp_path / "run")
    with pytest.raises(UserError, match="score .* --scores last_token"):
        finetune(run, make_config(FinetuneConfig, {"score_net": "last_token"}), in_process=True)


def test_a_score_net_and_task_weights_exclude_each_other():
    with pytest.raises(UserError, match="give neither weights nor weighting"):
        make_config(FinetuneConfig, {"score_net": "clip", "weights": {"a": 1.0}})
