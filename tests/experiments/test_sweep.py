"""A sweep on a cluster: what it writes, and that a killed one ends like an undisturbed one."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from raycurate.config import RankConfig
from raycurate.errors import UserError
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.grid import grid
from raycurate.experiments.sweep import sweep
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.rank import rank
from tests.drivers import kill_after
from tests.nouns import read_all, write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case

GRID = {
    "methods": ["coincide"],
    "temperatures": [0.05, 0.1, 0.2],
    "ratios": [0.1, 0.2, 0.4],
    "frequencies": 32,
    "max_concurrent": 2,
}
ROWS = 300


@pytest.fixture(scope="module")
def made(ray_cluster, tmp_path_factory) -> Path:
    """A run with 300 rows of seven tasks, clustered and ranked."""
    folder = tmp_path_factory.mktemp("made") / "run"
    run, case = Run(str(folder)), clustered_case(3, rows=ROWS, clusters=8)
    write_samples(run, case.keys, [f"task {min(i % 10, 6)}" for i in range(ROWS)], shards=3)
    write_features(run, case.keys, case.features, shards=3, block_dim=case.block_dim)
    write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=3)
    rank(run, make_config(RankConfig, {}))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Every table and figure of a sweep without the times."""
    found = folder / "sweeps" / "main"
    return {
        str(path.relative_to(found)): path.read_bytes()
        for pattern in ("*.csv", "results.json", "figures/*.svg")
        for path in found.glob(pattern)
        if path.name != "timings.csv"
    }


def kill_in_the_middle(folder: Path) -> dict[str, int]:
    """Start the command, kill -9 its process after two results; when each result that it left was written."""
    command = ["sweep", str(folder), "--temperatures", "0.05,0.1,0.2"]
    command += ["--ratios", "0.1,0.2,0.4", "--set", "frequencies=32", "--set", "max_concurrent=1"]
    return kill_after(2, folder / "sweeps" / "main" / "measured", *command)


def test_a_killed_sweep_ends_as_an_undisturbed_one(made, tmp_path):
    """kill -9 of the driver, the same command again: identical tables and figures, finished trials not run again."""
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    shutil.copytree(made, quiet)
    shutil.copytree(made, killed)
    sweep(Run(str(quiet)), make_config(SweepConfig, GRID))
    before = kill_in_the_middle(killed)
    assert 2 <= len(before) < 9
    assert list((killed / "sweeps" / "main" / "tune").glob("*/tuner.pkl")), "Tune has its state to go on from"
    results = killed / "sweeps" / "main" / "measured"
    sweep(Run(str(killed)), make_config(SweepConfig, GRID))
    assert len(list(results.glob("*.json"))) == 9
    assert {name: (results / name).stat().st_mtime_ns for name in before} == before
    assert not (killed / "sweeps" / "main" / "tune").exists()
    assert {"results.csv", "results.json", "figures/distances-0.1.svg"} <= set(files_of(quiet))
    assert files_of(killed) == files_of(quiet)


def test_the_table_says_what_was_selected(made, tmp_path):
    """Counts, balance, coverage and overlap follow from the kept rows; a larger grid runs its new points only."""
    shutil.copytree(made, tmp_path / "run")
    run = Run(os.path.relpath(tmp_path / "run"))  # a relative path is the driver's, wherever Tune puts its trials
    values = {**GRID, "methods": ["coincide", "random"], "temperatures": [0.1], "ratios": [0.2]}
    sweep(run, make_config(SweepConfig, values))
    first = run.noun("sweeps").read_json("results.json")["trials"]
    noun_made = run.noun("selection", first[0]["label"]).require("select").created
    config = make_config(SweepConfig, {**values, "ratios": [0.2, 1.0]})
    sweep(run, config)
    assert run.noun("selection", first[0]["label"]).require("select").created == noun_made
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run/sweeps/main/results.csv").read_text())))
    assert [row["label"] for row in rows] == [trial.label for trial in grid(config)]
    clusters = dict(zip(*read_all(run.noun("clusters")).select(["key", "cluster"]).to_pydict().values(), strict=True))
    kept_keys = {}
    for row in rows:
        table = read_all(run.noun("selection", row["label"]))
        kept = table.filter(table["kept"])
        kept_keys[row["label"]] = set(kept["key"].to_pylist())
        counts = np.unique(kept["task"].to_pylist(), return_counts=True)[1] / kept.num_rows
        assert int(row["kept"]) == round(float(row["ratio"]) * ROWS) == kept.num_rows
        assert float(row["task_entropy"]) == pytest.approx(-(counts * np.log(counts)).sum())
        assert int(row["clusters_covered"]) == len({clusters[key] for key in kept["key"].to_pylist()})
        assert (float(row["mmd2"]) == 0) == (row["ratio"] == "1.0")
    overlaps = list(csv.DictReader(io.StringIO((tmp_path / "run/sweeps/main/overlap.csv").read_text())))
    a, b = rows[0]["label"], rows[2]["label"]
    shared = len(kept_keys[a] & kept_keys[b]) / len(kept_keys[a] | kept_keys[b])
    assert float(overlaps[0][b]) == pytest.approx(shared)


def test_a_failed_trial_is_told_and_run_again(made, tmp_path):
    """Quotas that cannot be met fail their trial with the method's own message; the other trial is kept."""
    shutil.copytree(made, tmp_path / "run")
    run = Run(str(tmp_path / "run"))
    values = {**GRID, "temperatures": [0.1], "ratios": [0.01, 0.4], "options": {"coincide": {"min_cluster_keep": 3}}}
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 2 trials failed .*min_cluster_keep=3 asks for"):
            sweep(run, make_config(SweepConfig, values))
    assert len(list((tmp_path / "run/sweeps/main/measured").glob("*.json"))) == 1


def made_by_training(folder: Path) -> dict[str, int]:
    """When each file of the models, their answers and the trained trials was written."""
    places = ("models", "predictions", "scores", "tokens", "sweeps/main/trained", "sweeps/main/measured")
    files = [path for place in places for path in (folder / place).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_a_sweep_trains_its_selections_once(made, tmp_path):
    """With `finetune` a real training and evaluation make the scores; asked again, nothing is trained or answered."""
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    training = {"method": "full", "max_steps": 2, "batch_rows": 4, "cpus_per_worker": 0.5, "threads": 1, "trackers": []}
    values = {
        **{"methods": ["random", "stratified"], "ratios": [0.1], "frequencies": 32, "data": "main"},
        "finetune": training,
        "evaluate": {"max_rows": 8, "max_new_tokens": 2, "cpus_per_actor": 0.5},
    }
    sweep(Run(str(folder)), make_config(SweepConfig, values))
    written = made_by_training(folder)
    found = Run(str(folder)).noun("sweeps").read_json("evidence.json")["differences"]
    assert found["random r=0.1"]["against"] == "stratified r=0.1"
    assert sum(task["items"] for task in found["random r=0.1"]["by_task"].values()) == 8, "all test rows"
    assert "| random r=0.1 | stratified r=0.1 |" in (folder / "sweeps/main/scoreboard.md").read_text("utf-8")
    trial = Run(str(folder)).noun("sweeps").read_json("results.json")["trials"][0]
    assert trial["trained_rows"] == ROWS // 10
    assert trial["steps"] == 2
    assert [name for name in trial if "/" in name]
    assert any(path.startswith("sweeps/main/trained") for path in written)
    sweep(Run(str(folder)), make_config(SweepConfig, values))
    assert made_by_training(folder) == written
