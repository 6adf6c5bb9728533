"""Measured transferability: which clusters are drawn, and that the tables follow from the trainings."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from raycurate.errors import UserError
from raycurate.experiments.transferability import TransferabilityConfig, draw_clusters, measure_transferability
from raycurate.selection.transferability import transferability
from raycurate.settings import make_config
from tests.nouns import read_all, write_clusters, write_features
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import write_run

FINETUNE = {"method": "full", "learning_rate": 0.003, "batch_rows": 8, "micro_batch": 8, "threads": 1}


def config(**values) -> TransferabilityConfig:
    return make_config(TransferabilityConfig, values)


def test_sources_and_targets_are_disjoint_and_have_rows_enough():
    """More of either keeps those that fewer drew; a target needs its held-out rows too."""
    size_K = np.random.default_rng(0).integers(80, 240, 60)
    few = draw_clusters(size_K, config(sources=5, targets=4, seed=3))
    more_sources = draw_clusters(size_K, config(sources=12, targets=4, seed=3))
    more_targets = draw_clusters(size_K, config(sources=5, targets=9, seed=3))
    for sources, targets in (few, more_sources, more_targets):
        assert not set(sources.tolist()) & set(targets.tolist())
        assert size_K[sources].min() >= 100
        assert size_K[targets].min() >= 150
    assert more_sources[0].tolist()[:5] == few[0].tolist()
    assert more_targets[1].tolist()[:4] == few[1].tolist()
    assert draw_clusters(size_K, config(sources=5, targets=4, seed=4))[0].tolist() != few[0].tolist()


def test_a_budget_of_pairs_lessens_the_targets():
    """All sources keep the same targets; a budget below one target each is refused."""
    size_K = np.full(60, 200)
    sources, targets = draw_clusters(size_K, config(sources=10, targets=10, pairs=47))
    assert (len(sources), len(targets)) == (10, 4)
    with pytest.raises(UserError, match="pairs 9 is less than one target"):
        config(sources=10, targets=10, pairs=9)


def test_too_few_clusters_are_told():
    with pytest.raises(UserError, match=r"of 6 clusters, 4 have the 150 rows of a target and 5 the 100 of a source"):
        draw_clusters(np.array([200, 200, 200, 200, 120, 10]), config(sources=3, targets=3))


def test_the_tables_follow_from_the_trainings(ray_cluster, tmp_path):
    """T from the losses of the pairs, S from the centroids; the same again trains nothing."""
    run = write_run(tmp_path / "run", 60)
    keys = read_all(run.noun("samples"))["key"].to_pylist()
    generator = np.random.default_rng(5)
    features_ND = generator.normal(size=(60, 8)).astype(np.float32)
    centroids_KD = generator.normal(size=(4, 8)).astype(np.float32)
    write_features(run, keys, features_ND, shards=2)
    write_clusters(run, keys, features_ND, np.arange(60) % 4, centroids_KD, shards=2)
    model = str(make_tiny_vlm("llava", tmp_path / "model"))
    asked = {"sources": 3, "targets": 1, "rows": 8, "held_out_rows": 6, "max_concurrent": 1}
    asked["finetune"] = {**FINETUNE, "model": model}
    measure_transferability(run, config(**asked))
    folder = Path(run.noun("transferability").folder)
    found = json.loads((folder / "results.json").read_text())
    assert len(list((folder / "trained").iterdir())) == 4
    assert sorted(json.loads(path.read_text())["rows"] for path in (folder / "trained").iterdir()) == [8, 16, 16, 16]
    proxy_K = transferability(centroids_KD, np.full(4, 15))
    pairs = {line["source"]: line for line in found["pairs"]}
    assert len({line["loss alone"] for line in found["pairs"]}) == 1
    for row in found["sources"]:
        pair = pairs[row["cluster"]]
        assert row["T"] == pytest.approx(pair["loss alone"] - pair["loss joint"])
        assert row["S"] == pytest.approx(proxy_K[row["cluster"]])
        unit_KD = centroids_KD / np.linalg.norm(centroids_KD, axis=1, keepdims=True)
        assert row["S over targets"] == pytest.approx(unit_KD[row["cluster"]] @ unit_KD[pair["target"]], abs=1e-6)
    assert found["correlation with S"]["pearson"]["value"] == pytest.approx(
        np.corrcoef([row["T"] for row in found["sources"]], [row["S"] for row in found["sources"]])[0, 1]
    )
    lines = list(csv.DictReader(io.StringIO((folder / "sources.csv").read_text())))
    assert [int(line["cluster"]) for line in lines] == [row["cluster"] for row in found["sources"]]
    assert {"scatter.svg", "gains.svg"} == {p.name for p in (folder / "figures").iterdir()}
