"""Cluster files, cards, prices and rates: what is read, and what is refused."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.estimate.calibrate import better_of, mean_seconds
from raycurate.estimate.places import parse_prices, price_of, read_cluster
from raycurate.estimate.rates import DEFAULT_RATES, card_named, load_rates

FILES = Path(__file__).parents[2] / "cluster_configs"
PODS = "kind: RayCluster\nspec: {{workerGroupSpecs: [{{groupName: a, template: {{spec: {{containers: [{}]}}}}}}]}}"
NODES = "available_node_types:\n  a: {}"


@pytest.mark.parametrize(
    ("file", "spot", "finetune"),
    [
        ("aws.yaml", "L40S", "A100-40GB"),
        ("gcp.yaml", "L4", "A100-40GB"),
        ("azure.yaml", "A100-80GB", "A100-80GB"),
        ("kuberay/raycluster.yaml", "L40S", "L40S"),
        ("kuberay/rayjob.yaml", "L40S", "L40S"),
    ],
)
def test_shipped_files_name_their_groups_and_cards(file, spot, finetune):
    cluster = read_cluster(FILES / file)
    assert cluster.for_cards("extract").card.name == spot
    assert (cluster.for_cards("finetune").cards, cluster.for_cards("finetune").card.name) == (8, finetune)
    assert (cluster.for_cores().name, cluster.for_cores().most) == ("cpu", 4)


def test_a_card_can_be_said_for_a_group():
    cluster = read_cluster(FILES / "kuberay" / "raycluster.yaml", {"gpu-spot": "h100"})
    assert cluster.for_cards("extract").card.name == "H100"
    assert len(cluster.notes) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is no YAML"),
        ("kind: Pod", "names no group"),
        ("[1, 2]", "names no group"),
        ("available_node_types: {head: {resources: {CPU: 0}}}\nhead_node_type: head", "names no group"),
        ("available_node_types: {cpu: {resources: {CPU: many}}}", "cannot be read"),
        ("kind: RayCluster\nspec: {workerGroupSpecs: [{groupName: a}]}", "cannot be read: KeyError"),
        (PODS.format("{}"), "'a' cannot be read: resources.limits.cpu is not there"),
        (PODS.format("{resources: {limits: {cpu: lots}}}"), "'a' cannot be read: resources.limits.cpu is 'lots'"),
        (NODES.format("{node_config: , resources: }"), "'a' cannot be read: resources.CPU is not there"),
        (NODES.format("{resources: {CPU: -8}}"), "'a' cannot be read: resources.CPU is -8"),
        (NODES.format("{resources: {CPU: 8}, max_workers: -1}"), "'a' cannot be read: max_workers is -1"),
        (NODES.format("{resources: {CPU: 8}, max_workers: 0}"), "names no group"),
        ("kind: RayCluster\nspec: {workerGroupSpecs: }", "names no group"),
        ("kind: RayJob\nspec:", "names no group"),
        ("available_node_types: {cpu: 4}", "cannot be read"),
    ],
)
def test_another_file_is_refused(tmp_path, text, told):
    (tmp_path / "file.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        read_cluster(tmp_path / "file.yaml")


def test_a_group_that_never_has_a_node_runs_nothing(tmp_path):
    text = NODES.format("{resources: {CPU: 8}}\n  b: {resources: {CPU: 64, GPU: 8}, max_workers: 0}\nmax_workers: 7")
    (tmp_path / "file.yaml").write_text(text, encoding="utf-8")
    cluster = read_cluster(tmp_path / "file.yaml")
    assert cluster.for_cards("extract") is None
    assert (cluster.for_cores().name, cluster.for_cores().most) == ("a", 7)


def test_pods_that_only_request_cores_have_them(tmp_path):
    (tmp_path / "file.yaml").write_text(PODS.format("{resources: {requests: {cpu: 1500m}}}"), encoding="utf-8")
    assert read_cluster(tmp_path / "file.yaml").for_cores().cores == 1.5


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the cluster file .*nothing.yaml"):
        read_cluster(tmp_path / "nothing.yaml")


def test_unknown_cards_and_groups_are_told_with_those_there_are():
    with pytest.raises(UserError, match="unknown card 'H101'. Did you mean 'H100'"):
        card_named("H101")
    with pytest.raises(UserError, match="gpu_sport"):
        read_cluster(FILES / "aws.yaml", {"gpu_sport": "H100"})


def test_a_price_is_of_a_group_or_of_a_machine():
    cluster = read_cluster(FILES / "aws.yaml")
    prices = parse_prices(("cpu=2", "g6e.4xlarge=1.5"), cluster)
    assert (price_of(cluster.for_cores(), prices), price_of(cluster.for_cards("extract"), prices)) == (2.0, 1.5)


@pytest.mark.parametrize("text", ["cpu", "cpu=", "cpu=-1", "cpu=inf", "nothing=1"])
def test_a_wrong_price_is_refused(text):
    with pytest.raises(UserError):
        parse_prices((text,), read_cluster(FILES / "aws.yaml"))


def test_rates_are_read_as_they_were_kept(tmp_path):
    (tmp_path / "rates.json").write_text(json.dumps(DEFAULT_RATES.to_json()), encoding="utf-8")
    assert load_rates(tmp_path / "rates.json") == DEFAULT_RATES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "holds no rates"),
        ('{"disk": 1}', "Did you mean"),
        ('{"disk_read": 0}', "positive"),
        ('{"disk_read": true}', "positive"),
        ("{", "no JSON"),
        ("\xff", "no JSON"),
    ],
)
def test_a_wrong_file_of_rates_is_refused(tmp_path, text, told):
    (tmp_path / "rates.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=told):
        load_rates(tmp_path / "rates.json")


def test_of_two_measurements_the_faster_one_counts():
    busy = replace(DEFAULT_RATES, parse_row_seconds=1.0, disk_read=1.0, measured="busy")
    found = better_of(busy, replace(DEFAULT_RATES, worker_seconds=99.0))
    assert found == DEFAULT_RATES


def test_a_rate_is_the_mean_of_its_runs():
    started = time.perf_counter()
    assert 0.01 <= mean_seconds(lambda: time.sleep(0.01), window=0.05) < 1
    assert time.perf_counter() - started >= 0.05
