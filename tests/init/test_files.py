"""What `raycurate init` writes passes the checks of the shipped files, and the local target runs as written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.init import TARGETS
from raycurate.recipe import load_recipe
from tests.cluster_configs.crd_fields import faults
from tests.cluster_configs.test_kuberay import SCHEMA
from tests.cluster_configs.test_launcher import CLOUDS, check_placement, demands, secrets_in
from tests.init.data import write_data


def init(place: Path, target: str, *options: str) -> tuple[int, str]:
    """Exit code and output of the command for a small file in this folder."""
    words = ["init", str(place / target), "--data", str(place / "train.json"), "--target", target, *options]
    done = CliRunner().invoke(main, words)
    return done.exit_code, done.output


def test_a_ratio_that_keeps_no_row_is_refused_before_anything_is_written(tmp_path):
    write_data(tmp_path, rows=1)
    code, text = init(tmp_path, "local")
    assert (code, "ratio 0.2 of 1 rows keeps none" in " ".join(text.split())) == (1, True)
    assert not (tmp_path / "local").exists()
    assert init(tmp_path, "local", "--ratio", "1")[0] == 0


def lines_of(readme: Path) -> list[str]:
    """The commands of a README."""
    return [line.strip() for line in readme.read_text().splitlines() if line.startswith("    ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, and what every target wrote for it."""
    folder = tmp_path_factory.mktemp("my data")
    write_data(folder, rows=40)
    for target in TARGETS:
        code, text = init(folder, target)
        assert code == 0, text
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_every_recipe_is_one_and_has_no_line_without_meaning(place, target):
    """A comment stands in front of every setting."""
    path = place / target / "recipe.yaml"
    recipe = load_recipe(path)
    assert recipe.section("cluster").clusters == 1
    assert recipe.section("select").ratio == 0.2
    lines = path.read_text().splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("  ") and "#" not in line and before.strip() and not before.startswith("  "):
            assert before.startswith("#") or before.endswith(":"), line


@pytest.mark.parametrize("target", TARGETS)
def test_the_readme_names_every_place_that_waits_for_the_user(place, target):
    """And a recipe in which something waits is refused, with the fields; `--dry-run` shows it."""
    marked = [path.name for path in sorted((place / target).iterdir()) if "FILL_IN" in path.read_text()]
    readme = (place / target / "README.md").read_text()
    for name in marked:
        assert f"- {name}" in readme or name == "README.md"
    done = CliRunner().invoke(main, ["run", str(place / target / "recipe.yaml"), "--dry-run"])
    assert done.exit_code == 0
    if "recipe.yaml" in marked:
        done = CliRunner().invoke(main, ["run", str(place / target / "recipe.yaml")])
        assert done.exit_code == 1
        assert "FILL_IN in run, ingest.source" in done.output
    else:
        assert target in ("local", "slurm")


@pytest.mark.parametrize("stage", demands())
@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_launchers_file_starts_the_nodes_of_every_stage(place, cloud, stage):
    """By Ray's schema and scheduler, as the shipped one."""
    check_placement(yaml.safe_load((place / cloud / "cluster.yaml").read_text()), stage)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_launchers_file_brings_this_checkout_and_no_secret(place, cloud):
    text = (place / cloud / "cluster.yaml").read_text()
    for source in yaml.safe_load(text)["file_mounts"].values():
        assert source.startswith("~") or os.path.exists(source)
    assert secrets_in(text.replace(str(Path(__file__).parents[2]), "")) == []


def test_the_kuberay_job_keeps_to_the_schema_and_the_published_crds(place):
    """And runs the recipe from a ConfigMap of its own name, which the README makes."""
    manifest = yaml.safe_load((place / "kuberay" / "rayjob.yaml").read_text())
    assert [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(manifest)] == []
    assert faults(manifest) == []
    pod = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert manifest["spec"]["entrypoint"] == f"raycurate run {mounts['recipe']}/recipe.yaml"
    (volume,) = [each for each in pod["volumes"] if each["name"] == "recipe"]
    assert f"kubectl create configmap {volume['configMap']['name']} " in (place / "kuberay" / "README.md").read_text()


def test_the_slurm_script_is_bash_and_takes_the_writers_environment(place):
    path = place / "slurm" / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert f"export PATH={os.path.dirname(sys.executable)}:$PATH" in path.read_text()
    assert "#SBATCH --gpus-per-node=1" in path.read_text()


def test_a_file_that_is_there_is_kept_unless_forced(place):
    recipe = place / "local" / "recipe.yaml"
    recipe.write_text("mine")
    code, output = init(place, "local")
    assert code == 1
    assert "is there already and nothing was written" in output
    assert recipe.read_text() == "mine"
    assert init(place, "local", "--force")[0] == 0
    assert load_recipe(recipe).run == str(place / "local" / "run")


def test_data_in_a_bucket_leaves_no_bucket_to_fill_in(place, s3):
    """The run goes into the bucket of the data."""
    import pyarrow.fs as pafs

    filesystem, _ = pafs.FileSystem.from_uri("s3://bucket/")
    with filesystem.open_output_stream("bucket/mix/train.json") as file:
        file.write((place / "train.json").read_bytes())
    words = ["--data", "s3://bucket/mix/train.json", "--images", "s3://bucket/images", "--target", "aws"]
    done = CliRunner().invoke(main, ["init", str(place / "bucket"), *words])
    assert done.exit_code == 0, done.output
    assert load_recipe(place / "bucket" / "recipe.yaml").run == "s3://bucket/runs/raycurate-train"
    assert "FILL_IN" not in (place / "bucket" / "recipe.yaml").read_text()


def test_the_commands_of_the_local_target_run_as_written(place, ray_cluster):
    """`doctor`, `run` and `status` in a shell, with the embedded model."""
    lines = lines_of(place / "local" / "README.md")
    assert [line.split()[1] for line in lines] == ["doctor", "run", "status"]
    address = ray_cluster.get_runtime_context().gcs_address
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)],
        env={**os.environ, "PATH": path, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((place / "local" / "coreset.json").read_text())) == 8
