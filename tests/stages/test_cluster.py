"""Tests of raycurate.stages.cluster: the distributed k-means gives the bits of the one in one process."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from raycurate.clustering import KMeansSettings, spherical_kmeans
from raycurate.config import ClusterConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_column, features_of_table
from raycurate.run.filesystem import list_files
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import cluster as stage
from raycurate.stages.cluster import cluster, cpus_each_fit
from raycurate.stages.engine import kmeans_pool
from raycurate.stages.engine.kmeans_pool import KMeansPool, WorkerLost
from raycurate.stages.workers.kmeans import KMeansJob

DIM, ROWS, PARTS, CLUSTERS = 48, 600, 7, 12


def unit_rows(num_rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Rows around a dozen directions."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((15, DIM)) + rng.standard_normal(DIM)
    rows = centres[rng.integers(0, 15, num_rows)] + 0.8 * rng.standard_normal((num_rows, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def make_run(folder, rows: np.ndarray, parts: int = PARTS) -> tuple[Run, list[str]]:
    """A run whose features noun holds these rows in uneven parts, one of them empty."""
    run = Run(str(folder))
    keys = [f"{hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest()}-0" for i in range(len(rows))]
    noun = run.noun("features")
    noun.begin({"stage": "extract", "config": {}})
    edges = [0, *sorted(np.random.default_rng(1).integers(0, len(rows), parts - 2).tolist()), len(rows), len(rows)]
    for shard, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        table = pa.table({"key": keys[low:high], "features": features_column(rows[low:high])})
        table = table.cast(pa.schema([("key", pa.string()), table.schema.field("features")]))
        noun.commit_part(shard, table, rows_in=high - low)
    noun.finish(metrics={"dimension": rows.shape[1], "block_dim": rows.shape[1] // 2})
    return run, keys


def config_of(**values) -> ClusterConfig:
    """A config for small clusters of Ray."""
    defaults = {"clusters": CLUSTERS, "iterations": 6, "tolerance": 0.0, "workers": 2, "cpus_per_worker": 0.5}
    return make_config(ClusterConfig, {**defaults, "threads": 1, **values})


def outcome(run: Run, label: str = "main") -> tuple[np.ndarray, list, list, list]:
    """Centroids, labels, similarities and the history of objectives."""
    noun = run.noun("clusters", label)
    parts = list(noun.iter_parts())
    history = noun.manifest().metrics["history"]
    return (
        features_of_table(noun.read_table("centroids.parquet"), "centroid", np.float32),
        [value for part in parts for value in part["cluster"].to_pylist()],
        [value for part in parts for value in part["similarity"].to_pylist()],
        [report["objective"] for report in history],
    )


def assert_same(left, right) -> None:
    """The same bits."""
    assert np.array_equal(left[0], right[0])
    assert left[1:] == right[1:]


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_cluster):
    """A run clustered by two workers, with what one process makes of the same rows."""
    rows = unit_rows()
    run, keys = make_run(tmp_path_factory.mktemp("run"), rows)
    manifest = cluster(run, config_of())
    settings = KMeansSettings(clusters=CLUSTERS, iterations=6, tolerance=0.0)
    return run, keys, manifest, spherical_kmeans(torch.from_numpy(rows), settings, keys=keys)


@pytest.mark.parametrize(
    ("workers", "cpus", "each"),
    [(1, [8, 8], 8), (2, [8, 8], 8), (3, [8, 8], 4), (4, [2.0], 0.5), (3, [2, 8], 8 / 3), (5, [2, 8], 2)],
)
def test_a_worker_asks_for_no_more_than_lets_all_lie_on_nodes(workers, cpus, each):
    """The most that every one can have at once: none waits for a node that never comes."""
    assert cpus_each_fit(workers, cpus) == pytest.approx(each)


def test_two_workers_give_the_bits_of_one_process(made):
    """Centroids, labels, similarities, objectives, sizes."""
    run, keys, manifest, single = made
    centroids, labels, similarities, objectives = outcome(run)
    assert np.array_equal(centroids, single.centroids_KD)
    assert labels == single.labels_N.tolist()
    assert similarities == single.similarities_N.tolist()
    assert objectives == [report.objective for report in single.history]
    noun = run.noun("clusters")
    assert noun.read_table("centroids.parquet")["size"].to_pylist() == single.sizes_K.tolist()
    assert [key for part in noun.iter_parts() for key in part["key"].to_pylist()] == keys
    assert manifest.rows_in == manifest.rows_out == ROWS
    assert manifest.metrics["objective"] == pytest.approx(single.objective)
    assert sum(manifest.metrics["rows_by_node"].values()) == manifest.rows_out
    assert not list_files(noun.filesystem, f"{noun.folder}/checkpoint")


@pytest.mark.parametrize("workers", [1, 3])
def test_other_numbers_of_workers_and_caches_give_the_same_bits(made, workers, tmp_path, monkeypatch):
    """One worker, three workers that add up through the object store; nothing cached, small blocks."""
    run, *_ = made
    monkeypatch.setattr(KMeansJob, "linkable", False)
    label = f"w{workers}"
    cluster(run, config_of(workers=workers, label=label, cache_gb=0.0, block_rows=50, scratch=str(tmp_path)))
    assert_same(outcome(run), outcome(run, label))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_clustering_is_not_made_again(made, monkeypatch):
    """Same config, same features: no worker is started, even with other execution settings."""
    run, _, manifest, _ = made
    monkeypatch.setattr(stage, "KMeansPool", None)
    assert cluster(run, config_of(workers=3, block_rows=10)) == manifest


def test_a_killed_worker_changes_nothing(made, monkeypatch):
    """kill -9 in the middle of the fit, from where on no worker waits for another; and while rows are assigned."""
    run, *_ = made
    killed, linked = [], []
    save, write = stage.Fit._save, KMeansPool.first_ready

    def kill(pool, number):
        os.kill(ray.get(pool.actors[number].process_id.remote()), signal.SIGKILL)
        killed.append(number)

    def save_and_kill(self, *, force):
        save(self, force=force)
        linked.append(self.pool.linked)
        if self.state.upcoming == 3 and 1 not in killed:
            kill(self.pool, 1)

    def ready_and_kill(self, references):
        if 0 not in killed:
            kill(self, 0)
        return write(self, references)

    monkeypatch.setattr(stage, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(stage.Fit, "_save", save_and_kill)
    monkeypatch.setattr(KMeansPool, "first_ready", ready_and_kill)
    manifest = cluster(run, config_of(label="killed"))
    assert killed == [1, 0]
    assert linked == [True] * 4 + [False] * 3  # the seeds and three iterations; then the others
    assert_same(outcome(run), outcome(run, "killed"))
    assert None in [report["moved"] for report in manifest.metrics["history"]]


def test_workers_lost_while_they_start_change_nothing(made, monkeypatch):
    """A first worker, and then the one in a killed one's place: both are gone before they answered."""
    run, *_ = made
    new, save = KMeansPool._new, stage.Fit._save
    doomed, unborn = ["a first one"], []

    def new_and_kill(self, number):
        actor = new(self, number)
        if doomed:
            unborn.append(doomed.pop())
            ray.kill(actor)
        return actor

    def save_and_kill(self, *, force):
        save(self, force=force)
        if self.state.upcoming == 3 and len(unborn) == 1:
            doomed.append("one in a killed one's place")
            ray.kill(self.pool.actors[1])

    monkeypatch.setattr(stage, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(KMeansPool, "_new", new_and_kill)
    monkeypatch.setattr(stage.Fit, "_save", save_and_kill)
    cluster(run, config_of(label="unborn"))
    assert unborn == ["a first one", "one in a killed one's place"]
    assert_same(outcome(run), outcome(run, "unborn"))


def test_a_killed_driver_goes_on_at_the_next_iteration(made, monkeypatch):
    """The first attempt dies after three iterations; the second does the remaining ones with another pool."""
    run, *_ = made
    iterate, done = stage.Fit._iterate, []

    def dying(self):
        if len(done) == 3:
            raise KeyboardInterrupt
        iterate(self)
        done.append(self.state.upcoming)

    monkeypatch.setattr(stage, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(stage.Fit, "_iterate", dying)
    with pytest.raises(KeyboardInterrupt):
        cluster(run, config_of(label="resumed"))
    assert run.noun("clusters", "resumed").manifest() is None

    def counting(self):
        iterate(self)
        done.append(self.state.upcoming)

    monkeypatch.setattr(stage.Fit, "_iterate", counting)
    cluster(run, config_of(label="resumed", workers=3))
    assert done == [1, 2, 3, 4, 5, 6]
    assert_same(outcome(run), outcome(run, "resumed"))


def test_committed_parts_are_not_assigned_again(made, monkeypatch):
    """The driver dies after two parts; the rerun starts at the assignment and makes the others only."""
    run, *_ = made
    original, given = stage._on_idle_actors, []

    def dying(pool, shards):
        for number, record in enumerate(original(pool, shards)):
            yield record
            if number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_on_idle_actors", dying)
    with pytest.raises(KeyboardInterrupt):
        cluster(run, config_of(label="parts"))
    committed = run.noun("clusters", "parts").records()
    assert len(committed) >= 2

    def counting(pool, shards):
        given.extend(shards)
        return original(pool, shards)

    monkeypatch.setattr(stage, "_on_idle_actors", counting)
    monkeypatch.setattr(stage.Fit, "_iterate", None)
    cluster(run, config_of(label="parts"))
    assert given
    assert set(given).isdisjoint(committed)
    assert_same(outcome(run), outcome(run, "parts"))


def test_kmeans_plus_plus_projection_and_a_sample_do_not_depend_on_workers(made):
    """All options at once, one and two workers: the same bits; every row has a cluster; centroids have all D."""
    run, *_ = made
    options = {"init": "kmeans++", "project": 24, "fit_sample": 300}
    for workers in (1, 2):
        cluster(run, config_of(label=f"options{workers}", workers=workers, **options))
    one, two = outcome(run, "options1"), outcome(run, "options2")
    assert_same(one, two)
    assert one[0].shape == (CLUSTERS, DIM)
    assert len(one[1]) == ROWS
    rows, labels = unit_rows().astype(np.float64), np.array(one[1])
    for k in np.unique(labels):
        mean = rows[labels == k].sum(axis=0)
        assert np.allclose(one[0][k], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_bad_row_is_reported_with_its_key_and_part(tmp_path, ray_cluster):
    """A NaN in the features ends the stage with one readable message."""
    rows = unit_rows(200)
    rows[150, 3] = np.nan
    run, keys = make_run(tmp_path, rows, parts=3)
    with pytest.raises(UserError, match=keys[150]):
        cluster(run, config_of())


def test_more_clusters_than_rows_are_refused(ray_cluster, tmp_path):
    """Before any worker starts, and against the sample where there is one."""
    run, _ = make_run(tmp_path, unit_rows(50), parts=3)
    with pytest.raises(UserError, match="only 50 rows"):
        cluster(run, config_of(clusters=51))
    with pytest.raises(UserError, match="only 20 rows"):
        cluster(run, config_of(clusters=30, fit_sample=20))


def test_a_worker_that_waits_for_a_lost_one_is_ended(monkeypatch, ray_cluster):
    """A collective of a GPU does not come back: after a while the waiting worker goes, too; an error comes first."""

    @ray.remote(num_cpus=0.1)
    class Worker:
        def __init__(self, what):
            self.what = what

        def call(self):
            if self.what == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "fails":
                raise ZeroDivisionError("of its own")
            time.sleep(1000)

    monkeypatch.setattr(kmeans_pool, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(kmeans_pool, "BEAT_SECONDS", 0.2)
    job = SimpleNamespace(ranges=((0, 1), (1, 2)))
    for what, error in (("dies", WorkerLost), ("fails", ZeroDivisionError)):
        pool = KMeansPool(job, 2, {}, "id", SimpleNamespace(beat=lambda: None))
        pool.actors = [Worker.remote("waits"), Worker.remote(what)]
        with pool, pytest.raises(error):
            pool.together("call")
