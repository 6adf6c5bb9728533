"""The entry points for `ray job submit`: where the run lies comes first, exit codes tell, the same line goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from ray._private.ray_constants import RAY_RUNTIME_ENV_CREATE_WORKING_DIR_ENV_VAR
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.runtime_env import RuntimeEnv

from jobs import curate, finetune
from raycurate.cli_jobs import SUBMITTED

ROOT = Path(__file__).parents[2]
HOLD = """import ray, sys
print(ray.init(address="local", num_cpus=4, include_dashboard=True).dashboard_url, flush=True)
sys.stdin.read()
"""


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


def write_rows(folder: Path) -> None:
    asked = [{"from": "human", "value": "how many is it?"}]
    rows = [{"id": n, "conversations": [*asked, {"from": "gpt", "value": f"it is {n}"}]} for n in range(40)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def call(job, *arguments: str) -> Result:
    return CliRunner().invoke(job.main, list(arguments))


def test_the_name_of_rays_variable_for_a_submitted_job_is_known():
    assert SUBMITTED == RAY_JOB_CONFIG_JSON_ENV_VAR


@pytest.mark.parametrize("job", [curate, finetune])
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


def test_a_recipe_without_training_sections_is_no_finetune_job(tmp_path):
    result = call(finetune, "--recipe", str(write_recipe(tmp_path)))
    assert result.exit_code == 1
    assert "none of the sections test, finetune, evaluate, compare" in result.stderr


def test_the_runtime_env_is_one_that_ray_accepts_and_pins_by_our_constraints():
    given = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text(encoding="utf-8"))
    accepted = RuntimeEnv(**given)
    copy = "${" + RAY_RUNTIME_ENV_CREATE_WORKING_DIR_ENV_VAR + "}"
    assert accepted["pip"]["packages"] == [f"-c {copy}/constraints.txt", copy]


@pytest.mark.slow
def test_a_submitted_job_fails_and_succeeds_by_its_exit_code_and_the_same_line_goes_on(tmp_path):
    """`ray job submit` to a cluster with token authentication: first without the source, then with it, then again."""
    recipe = write_recipe(tmp_path)
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    environment.pop("RAY_ADDRESS", None)
    cluster = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    try:
        address = f"http://{cluster.stdout.readline().strip()}"
        submit = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", address]
        line = [*submit, "--working-dir", str(ROOT), "--", sys.executable, "jobs/curate.py", "--recipe", str(recipe)]

        def submitted() -> tuple[int, str]:
            deadline = time.monotonic() + 200
            while True:  # a cluster that has just started has no agent to take jobs yet, and says so
                done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=400)
                output = done.stdout + done.stderr
                if "No available agent" not in output or time.monotonic() > deadline:
                    return done.returncode, output
                time.sleep(2)

        code, output = submitted()
        assert code != 0
        assert f"run {tmp_path}/run" in output
        write_rows(tmp_path)
        code, output = submitted()
        assert code == 0, output
        first = (tmp_path / "coreset.json").read_bytes()
        assert len(json.loads(first)) == 10
        made = (tmp_path / "run" / "features" / "main" / "manifest.json").stat().st_mtime_ns
        code, output = submitted()
        assert code == 0, output
        assert (tmp_path / "run" / "features" / "main" / "manifest.json").stat().st_mtime_ns == made
        assert (tmp_path / "coreset.json").read_bytes() == first
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=120)
