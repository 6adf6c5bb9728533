"""The KubeRay manifests keep to the API's fields, and Ray's autoscaler reads the right groups from them."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.cluster_configs.crd_fields import faults
from tests.cluster_configs.test_launcher import check_placement, demands

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster_configs" / "kuberay"
SCHEMA = json.loads((Path(__file__).parent / "kuberay_v1.6.2.schema.json").read_text(encoding="utf-8"))


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def groups() -> list[dict[str, Any]]:
    spec = read("raycluster")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_manifests_keep_to_the_fields_of_the_api(name):
    assert [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(read(name))] == []


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_manifests_keep_to_the_fields_of_the_published_crds(name):
    """Also those of Kubernetes inside of them, and their types."""
    assert faults(read(name)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "enableInTreeAutoscaler"), True),
        (("spec", "authOptions", "mode"), "Token"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "headGroupSpec", "template", "spec", "node_selector"), {}),
        (("spec", "autoscalerOptions", "idleTimeoutSeconds"), "600"),
    ],
)
def test_schema_and_crds_refuse_a_wrong_field_or_type(path, value):
    manifest = read("raycluster")
    target = manifest
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)
    assert len(faults(manifest)) == 1


@pytest.mark.parametrize("stage", demands())
def test_every_stage_starts_pods_of_its_own_group_up_to_its_limit(stage):
    manifest = copy.deepcopy(read("raycluster"))
    manifest["metadata"]["namespace"] = "default"
    check_placement(_derive_autoscaling_config_from_ray_cr(manifest), stage, spelling="-")


def test_the_job_runs_on_the_same_groups_as_the_cluster():
    assert read("rayjob")["spec"]["rayClusterSpec"] == read("raycluster")["spec"]


def test_authentication_is_on_the_dashboard_stays_inside_and_no_task_runs_on_the_head():
    spec = read("raycluster")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_ask_for_what_they_may_use_and_spill_to_a_volume():
    for group in groups():
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert str(Path(group["rayStartParams"]["object-spilling-directory"]).parent) == mounted["nvme"]


def test_image_and_manifests_have_the_pinned_ray():
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert read("raycluster")["spec"]["rayVersion"] == pinned[1]
    assert f"FROM rayproject/ray:{pinned[1]}-" in (FOLDER / "Dockerfile").read_text(encoding="utf-8")


def test_the_jobs_entry_point_is_a_recipe_that_resolves():
    """Its `--set` values are checked as the command itself would check them."""
    from raycurate.cli.main import main

    words = shlex.split(read("rayjob")["spec"]["entrypoint"])
    home = "/home/ray/raycurate/"
    assert words[:2] == ["python", f"{home}jobs/curate.py"]
    recipe = words[words.index("--recipe") + 1].replace(home, f"{ROOT}/")
    overrides = [word for word in words if "=" in word]
    arguments = [argument for override in overrides for argument in ("--set", override)]
    result = CliRunner().invoke(main, ["run", recipe, "--dry-run", *arguments])
    assert result.exit_code == 0, result.output
    resolved = yaml.safe_load(result.output)
    assert resolved["extract"]["nodes"] == {"raycurate/use": "extract"}
    assert resolved["extract"]["gpus_per_actor"] == 1
