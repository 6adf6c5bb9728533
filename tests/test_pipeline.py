"""The whole path by the command line: one answer whatever the workers, shards and kills."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from raycurate.errors import UserError
from raycurate.pipeline import run_recipe
from raycurate.recipe import Recipe, load_recipe
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.status import status
from tests.drawn_data import recipe_values, selection_of, write_data
from tests.drivers import kill_when, start
from tests.nouns import write_features, write_samples

ROWS = 240


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Rows of three tasks over drawn images, a random LLaVA, in a folder."""
    return write_data(tmp_path_factory.mktemp("data"), ROWS)


def _recipe(folder: Path, data: Path, **changes: dict) -> Path:
    recipe = recipe_values(str(folder), str(data), data / "model", **changes)
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def _answer(folder: Path) -> list[tuple]:
    return selection_of(Run(str(folder / "run")))


@pytest.fixture(scope="module")
def calm(ray_cluster, data, tmp_path_factory) -> list[tuple]:
    """The selection of an undisturbed run with one actor and one worker."""
    folder = tmp_path_factory.mktemp("calm")
    recipe = _recipe(folder, data, extract={"max_actors": 1}, cluster={"workers": 1})
    made = run_recipe(load_recipe(recipe))
    kept = json.loads((folder / "coreset.json").read_text(encoding="utf-8"))
    assert len(kept) == round(0.25 * ROWS)
    assert [m.created for m in run_recipe(load_recipe(recipe))] == [m.created for m in made], "it was made again"
    return _answer(folder)


@pytest.mark.slow
def test_workers_and_input_shards_do_not_change_the_answer(ray_cluster, data, calm, tmp_path):
    """3 extraction actors and k-means workers on rows dealt to seven files, against 1 on one: the same in all."""
    changes = {
        "ingest": {"source": str(data / "pieces"), "slice_rows": 17},
        "extract": {"min_actors": 3, "max_actors": 3},
        "cluster": {"workers": 3},
    }
    run_recipe(load_recipe(_recipe(tmp_path, data, **changes)))
    assert _answer(tmp_path) == calm


@pytest.mark.slow
def test_kills_in_extract_and_cluster_do_not_change_the_answer(data, calm, tmp_path):
    """kill -9 of the command in the middle of extract, then of cluster, then a rerun: the answer of a calm run."""
    recipe = str(_recipe(tmp_path, data, extract={"max_actors": 1}))
    run = Run(str(tmp_path / "run"))
    features, clusters = run.noun("features"), run.noun("clusters")
    kill_when(start("run", recipe), lambda: 2 <= len(features.records()) < 6)
    survivors = {shard: Path(features.part_path(shard)).stat().st_mtime_ns for shard in features.records()}
    assert survivors
    assert features.manifest() is None
    assert "features/main" in [line.name for line in status(run)]

    def mid_cluster() -> bool:
        state = clusters.read_json("checkpoint/state.json")
        return state is not None and len(state["history"]) >= 1 and clusters.manifest() is None

    kill_when(start("run", recipe), mid_cluster)
    assert features.manifest() is not None
    assert clusters.manifest() is None
    run_recipe(load_recipe(recipe))
    assert _answer(tmp_path) == calm
    assert {shard: Path(features.part_path(shard)).stat().st_mtime_ns for shard in survivors} == survivors


def _clusterings(run: str, *labels: str) -> dict:
    """A recipe of one clustering for each label, of the features of that label."""
    small = {"iterations": 3, "workers": 1, "cpus_per_worker": 0.5, "threads": 1}
    first, *more = ({**small, "clusters": 3 + k, "features": name, "label": name} for k, name in enumerate(labels))
    return {"run": run, "ingest": {"source": "rows.json"}, "cluster": first, "more_clusters": more}


def test_a_recipe_makes_each_of_its_clusterings_from_its_own_features(ray_cluster, tmp_path):
    run, keys = Run(str(tmp_path / "run")), [f"{i:032x}-0" for i in range(40)]
    write_samples(run, keys, ["task"] * 40)
    for seed, label in enumerate(("main", "last_token")):
        rows_ND = np.random.default_rng(seed).standard_normal((40, 8))
        rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
        write_features(run, keys, rows_ND.astype(np.float16), label=label)
    recipe = make_config(Recipe, _clusterings(str(tmp_path / "run"), "main", "last_token"))
    made = run_recipe(recipe, sections=["cluster"])
    assert [(m.noun, m.label, m.metrics["clusters"]) for m in made] == [
        ("clusters", "main", 3),
        ("clusters", "last_token", 4),
    ]
    for manifest in made:
        features = run.noun("features", manifest.label).require("extract")
        assert manifest.description["inputs"]["features"] == features.fingerprint
    assert [m.created for m in run_recipe(recipe, sections=["cluster"])] == [m.created for m in made]


def test_two_clusterings_of_one_label_are_refused():
    with pytest.raises(UserError, match="two clusterings have the label 'main'"):
        make_config(Recipe, _clusterings("run", "main", "main"))


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "jobs" / "recipes").glob("*.yaml")))
def test_every_recipe_of_the_jobs_can_be_read(path):
    assert load_recipe(path).cluster.label == "main"


def test_errors_are_one_line_and_exit_one(tmp_path):
    """No traceback without --debug; usage errors exit with 2."""
    process = start("extract", str(tmp_path / "none"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert output.count("\n") == 1
    assert f"there is no run directory at {tmp_path}/none. `raycurate ingest SOURCE --out" in output
    process = start("cluster", str(tmp_path))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--clusters" in output
