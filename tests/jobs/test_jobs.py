"""The entry points for `ray job submit`: where the run lies comes first, exit codes tell, the same line goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from ray._private.ray_constants import RAY_RUNTIME_ENV_CREATE_WORKING_DIR_ENV_VAR
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.runtime_env import RuntimeEnv

from jobs import balance, curate, finetune, individual_select, score, sweep
from raycurate.cli.jobs import SUBMITTED
from raycurate.recipe import load_recipe
from raycurate.run.store import Run

ROOT = Path(__file__).parents[2]


def write_recipe(folder: Path) -> Path:
    """A run of 40 text-only rows with the embedded model; the source is not there yet."""
    recipe = {
        "run": str(folder / "run"),
        "ingest": {"source": str(folder / "rows.json"), "rows_per_shard": 20},
        "extract": {"max_actors": 1, "cpus_per_actor": 0.5},
        "cluster": {"clusters": 4, "iterations": 2, "workers": 1, "cpus_per_worker": 0.5},
        "select": {"method": "random", "ratio": 0.25},
        "export": {"out": str(folder / "coreset.json")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def call(job, *arguments: str) -> Result:
    return CliRunner().invoke(job.main, list(arguments))


def test_the_name_of_rays_variable_for_a_submitted_job_is_known():
    assert SUBMITTED == RAY_JOB_CONFIG_JSON_ENV_VAR


@pytest.mark.parametrize("job", [curate, balance, finetune, individual_select, score, sweep])
def test_a_wrong_call_exits_with_two_and_a_wrong_setting_with_one(job, tmp_path):
    recipe = str(write_recipe(tmp_path))
    assert call(job).exit_code == 2
    assert call(job, "--recipe", str(tmp_path / "none.yaml")).exit_code == 2
    assert call(job, "--recipe", recipe, "--set", "select.rato=0.1").exit_code == 1
    assert call(job, "--help").exit_code == 0


def test_the_run_directory_is_printed_before_anything_fails(ray_cluster, tmp_path):
    result = call(curate, "--quiet", "--recipe", str(write_recipe(tmp_path)))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == f"run {tmp_path}/run"
    assert "rows.json" in result.stderr


def test_a_submitted_job_refuses_a_run_in_rays_copy_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv(SUBMITTED, "{}")
    result = call(curate, "--recipe", str(write_recipe(tmp_path)), "--set", "run=runs/here")
    assert result.exit_code == 1
    assert "--set run=s3://" in result.stderr


@pytest.mark.parametrize(
    ("job", "sections"),
    [(finetune, "test, finetune, evaluate, compare"), (score, "score"), (sweep, "sweep")],
)
def test_a_recipe_without_its_sections_is_no_job(tmp_path, job, sections):
    result = call(job, "--recipe", str(write_recipe(tmp_path)))
    assert result.exit_code == 1
    assert f"none of the sections {sections}:" in result.stderr


def test_curate_score_and_sweep_share_a_recipe_and_a_run(ray_cluster, tmp_path):
    """Each does its own sections; the same line again finds everything done."""
    rows = [
        {"id": i, "conversations": [{"from": "human", "value": f"what is {i}?"}, {"from": "gpt", "value": "it"}]}
        for i in range(40)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    given = ["--quiet", "--recipe", str(write_recipe(tmp_path))]
    given += ["--set", "extract.model=tiny", "--set", "score.scores=[token_losses]", "--set", "score.blind=false"]
    given += ["--set", "sweep.methods=[random]", "--set", "sweep.ratios=[0.1,0.5]", "--set", "sweep.max_concurrent=1"]
    assert "kept 10" in call(curate, *given).stdout
    scored = call(score, *given)
    assert "row_scores token_losses: 40 rows in" in scored.stdout, scored.output
    swept = call(sweep, *given)
    assert "sweeps main: 2 trials" in swept.stdout, swept.output
    assert swept.exit_code == 0
    created = Run(str(tmp_path / "run")).noun("sweeps").manifest()
    assert call(sweep, *given).exit_code == 0
    assert created is not None


def test_every_recipe_of_the_jobs_can_be_read():
    recipes = {path.name: load_recipe(path) for path in (ROOT / "jobs" / "recipes").glob("*.yaml")}
    assert recipes["demo_balance.yaml"].balance.validation == "val"
    assert recipes["demo_balance.yaml"].compare_weights.finetune == recipes["demo_balance.yaml"].balance.finetune


def test_samples_of_one_recipe_may_not_replace_each_other(tmp_path):
    recipe = str(write_recipe(tmp_path))
    words = ["--set", "validation.source=x.json", "--set", "test.source=y.json", "--set", "test.label=val"]
    result = call(balance, "--recipe", recipe, *words, "--set", "validation.label=val")
    assert result.exit_code == 1
    assert "test.label is 'val' as validation's" in result.stderr


def test_the_runtime_env_is_one_that_ray_accepts_and_pins_by_our_constraints():
    given = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text(encoding="utf-8"))
    accepted = RuntimeEnv(**given)
    copy = "${" + RAY_RUNTIME_ENV_CREATE_WORKING_DIR_ENV_VAR + "}"
    assert accepted["pip"]["packages"] == [f"-c {copy}/constraints.txt", copy]
