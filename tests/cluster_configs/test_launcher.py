"""The files for `ray up` are what Ray's launcher reads, keep no secrets, and start the right nodes for each stage."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from raycurate.config import ClusterConfig, ExtractConfig
from raycurate.evaluation.config import EvaluateConfig
from raycurate.stages.cluster import CPUS_BESIDE_GPU
from raycurate.training.config import FinetuneConfig
from tests.placement import nodes_started

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster_configs"
CLOUDS = ("aws", "gcp", "azure")
EXTRACT, FINETUNE = {"raycurate/use": "extract"}, {"raycurate/use": "finetune"}
SECRETS = {
    "an AWS access key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"PRIVATE KEY",
    "an account number": r"(?<![\w.-])\d{12}(?![\w.-])",
    "a subscription or tenant id": r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
    "a long random text": r"(?<![\w/.-])(?=[A-Za-z+]*\d)(?=\d*[A-Za-z])[A-Za-z0-9+]{32,}={0,2}(?![\w/.-])",
    "a password": r"(?i)(password|secret_?key|token)\s*[:=]\s*['\"]?[A-Za-z0-9+/]{12,}",
}


def read(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text(encoding="utf-8"))


def secrets_in(text: str) -> list[str]:
    return [name for name, pattern in SECRETS.items() if re.search(pattern, text)]


def demands() -> dict[str, tuple[dict[str, float], dict[str, str], str]]:
    """What each stage asks of Ray with its default shapes: resources of one actor, node labels, the group it is for."""
    extract, evaluate = ExtractConfig(), EvaluateConfig(model="tiny", data="test")  # type: ignore[call-arg]
    finetune, cluster = FinetuneConfig(), ClusterConfig(clusters=2, gpus_per_worker=1)  # type: ignore[call-arg]
    return {
        "loader": ({"CPU": extract.cpus_per_loader}, {}, "cpu"),
        "extraction": ({"CPU": extract.cpus_per_actor, "GPU": 1.0}, EXTRACT, "gpu_spot"),
        "evaluation": ({"CPU": evaluate.cpus_per_actor, "GPU": 1.0}, EXTRACT, "gpu_spot"),
        "k-means": (
            {"CPU": cluster.cpus_per_worker or CPUS_BESIDE_GPU, "GPU": cluster.gpus_per_worker or 0.0},
            EXTRACT,
            "gpu_spot",
        ),
        "finetune": ({"CPU": finetune.cpus_per_worker, "GPU": 1.0}, FINETUNE, "gpu_finetune"),
    }


def check_placement(config: dict[str, Any], stage: str, spelling: str = "_") -> None:
    """One actor starts one node of its group; one more than the nodes there now have room for starts the next."""
    shape, labels, group = demands()[stage]
    group = group.replace("_", spelling)
    spec = config["available_node_types"][group]
    room = min(int(spec["resources"].get(name, 0) / amount) for name, amount in shape.items())
    assert room >= 1
    kept = spec["min_workers"]
    assert nodes_started(config, shape, room * kept + 1, labels) == {group: 1}
    assert nodes_started(config, shape, room * spec["max_workers"], labels) == {group: spec["max_workers"] - kept}


@pytest.mark.parametrize("stage", demands())
@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_stage_starts_nodes_of_its_own_group_up_to_its_limit(cloud, stage):
    check_placement(read(cloud), stage)


def test_an_actor_larger_than_a_machine_is_found_out():
    config = read("aws")
    config["available_node_types"]["gpu_spot"]["resources"]["CPU"] = 0
    with pytest.raises(AssertionError):
        check_placement(config, "extraction")


def test_rays_schema_refuses_what_it_does_not_know():
    config = read("aws")
    config["available_node_types"]["cpu"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        nodes_started(config, {"CPU": 1}, 1, {})


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_groups_limits_add_up_and_no_task_runs_on_the_head(cloud):
    config = read(cloud)
    types = config["available_node_types"]
    assert config["max_workers"] == sum(spec["max_workers"] for spec in types.values())
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert config["idle_timeout_minutes"] >= 10


@pytest.mark.parametrize("cloud", CLOUDS)
def test_only_the_extraction_group_is_spot(cloud):
    market = {
        "aws": lambda node: node.get("InstanceMarketOptions", {}).get("MarketType") == "spot",
        "gcp": lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT",
        "azure": lambda node: node["azure_arm_parameters"].get("priority") == "Spot",
    }[cloud]
    types = read(cloud)["available_node_types"]
    assert [name for name, spec in types.items() if market(spec["node_config"])] == ["gpu_spot"]


def start_options(command: str) -> dict[str, Any]:
    """The options of a `ray start` line as Ray's own command parses them."""
    from ray.scripts.scripts import start

    words = shlex.split(command.replace("$RAY_HEAD_IP", "10.0.0.1"))
    assert words[:2] == ["ray", "start"]
    return start.make_context("start", words[2:]).params


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_dashboard_listens_on_loopback_only_and_objects_spill_to_the_mounted_disk(cloud):
    config = read(cloud)
    mounts = [option.split()[1].split(":")[1] for option in config["docker"]["run_options"] if option.startswith("-v ")]
    head = start_options(config["head_start_ray_commands"][-1])
    worker = start_options(config["worker_start_ray_commands"][-1])
    assert head["head"]
    assert head["dashboard_host"] == "127.0.0.1"
    assert not worker["head"]
    for options in (head, worker):
        assert str(Path(options["object_spilling_directory"]).parent) in mounts


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_shell_commands_parse(cloud):
    config = read(cloud)
    for name in ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[name]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_token_authentication_is_on_everywhere_and_the_token_is_a_file_of_the_users(cloud):
    config = read(cloud)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_files_to_mount_exist_and_the_image_has_the_pinned_ray(cloud):
    config = read(cloud)
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists()
    images = [config["docker"]["image"]]
    images += [s["docker"]["worker_image"] for s in config["available_node_types"].values() if "docker" in s]
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert all(f":{pinned[1]}-" in image for image in images)


def test_azure_node_settings_are_parameters_of_rays_template():
    template = Path(ray.autoscaler.__file__).parent / "_private" / "_azure" / "azure-vm-template.json"
    known = set(json.loads(template.read_text(encoding="utf-8"))["parameters"])
    for spec in read("azure")["available_node_types"].values():
        assert set(spec["node_config"]["azure_arm_parameters"]) <= known


@pytest.mark.parametrize("path", [p for p in sorted(FOLDER.rglob("*")) if p.is_file()], ids=lambda p: p.name)
def test_no_file_holds_a_secret_or_an_account(path):
    assert secrets_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "aws_access_key_id: AKIA" + "A1B2" * 4,
        "Arn: arn:aws:iam::" + "1234" * 3 + ":role/x",
        "subscription_id: " + "-".join(["01234567", "89ab", "cdef", "0123", "456789abcdef"]),
        "auth_token: " + "0a1b2c3d" * 8,
    ],
)
def test_a_secret_would_be_found(text):
    assert secrets_in(text)
