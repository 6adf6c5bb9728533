"""cluster --extend: new rows at the centroids that stand, what is told of them, and the new fit that begins there."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
import ray

from raycurate.config import ClusterConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_column, features_of_table
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import cluster as stage
from raycurate.stages.cluster import cluster
from raycurate.stages.engine.extend_here import few_came
from raycurate.stages.engine.fit_state import FitState
from raycurate.stages.engine.growth import with_pieces
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import describe
from tests.nouns import read_all, write_samples

ASSIGNED = pa.schema([("key", pa.string()), ("cluster", pa.int32()), ("similarity", pa.float32())])
DIM, OLD, NEW, CLUSTERS, PART = 32, 400, 80, 8, 100


def _rows(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Unit rows around eight directions; shifted ones lie elsewhere."""
    centres = np.random.default_rng(7).standard_normal((CLUSTERS, DIM))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, CLUSTERS, count)] + 0.35 * rng.standard_normal((count, DIM))
    rows += shift * np.random.default_rng(9).standard_normal(DIM)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def _key(number: int) -> str:
    return f"{hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()}-0"


def _write(run: Run, rows: np.ndarray, pieces: int) -> None:
    """Samples with so many appended pieces and features of these rows, the parts that are there left as they are."""
    samples = run.noun("samples")
    if samples.manifest() is None:
        write_samples(run, [_key(0)], ["t"])
    samples.extend(with_pieces(samples.read_json("work.json")["description"], [{"piece": n} for n in range(pieces)]))
    made = samples.finish(metrics={"tasks": {"t": len(rows)}})
    noun = run.noun("features")
    description = {"stage": "extract", "config": {}, "inputs": {"samples": made.fingerprint}}
    description["made_from"] = {"samples/main": made.fingerprint}
    if noun.manifest() is None:
        noun.begin(description)
    noun.extend(description)
    for shard in noun.missing(-(-len(rows) // PART)):
        low, high = shard * PART, min((shard + 1) * PART, len(rows))
        keys = pa.array([_key(i) for i in range(low, high)], pa.string())
        noun.commit_part(
            shard, pa.table({"key": keys, "features": features_column(rows[low:high])}), rows_in=high - low
        )
    noun.finish(metrics={"dimension": DIM, "block_dim": DIM})


def _cluster(run: Run, **settings):
    values = {"clusters": CLUSTERS, "iterations": 10, "tolerance": 0.0, "workers": 2, "cpus_per_worker": 0.5}
    return cluster(run, make_config(ClusterConfig, {**values, "threads": 1, **settings}))


def _made(folder, shift: float = 0.0) -> tuple[Run, np.ndarray, pa.Table]:
    """Clusters of the old rows, and features that have grown by new ones since."""
    run, old = Run(str(folder)), _rows(OLD, 1)
    _write(run, old, 0)
    _cluster(run)
    before = read_all(run.noun("clusters"))
    rows = np.concatenate([old, _rows(NEW, 2, shift)])
    _write(run, rows, 1)
    return run, rows, before


def _centroids(run: Run) -> np.ndarray:
    return features_of_table(run.noun("clusters").read_table("centroids.parquet"), "centroid", np.float32).copy()


def test_new_rows_go_to_the_nearest_centroid_that_stands(ray_cluster, tmp_path):
    """Old rows and centroids keep their bits, new rows get the argmax, the fit of alike rows is told and accepted."""
    run, rows, before = _made(tmp_path / "run")
    centroids_KD = _centroids(run)
    written = (tmp_path / "run/clusters/main/part-00000.parquet").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"has grown since \(cluster --extend keeps its centroids\)"):
        required(run.noun("clusters"))
    made = _cluster(run, extend=True)
    after = read_all(run.noun("clusters"))
    assert after.slice(0, OLD).equals(before)
    assert (tmp_path / "run/clusters/main/part-00000.parquet").stat().st_mtime_ns == written
    assert np.array_equal(_centroids(run), centroids_KD)
    scores_NK = rows.astype(np.float64) @ centroids_KD.astype(np.float64).T
    assert after["cluster"].to_pylist() == scores_NK.argmax(axis=1).tolist()
    low = np.sort(scores_NK[:OLD].max(axis=1))[OLD // 100]
    found = made.metrics["fit_of_new"]
    assert found["new_rows"] == NEW
    assert found["similarity"] == pytest.approx(scores_NK[OLD:].max(axis=1).mean(), abs=1e-5)
    assert found["share_low"] == pytest.approx((scores_NK[OLD:].max(axis=1) < low).mean(), abs=1.5 / NEW)
    assert sum(run.noun("clusters").read_table("centroids.parquet")["size"].to_pylist()) == OLD + NEW
    assert required(run.noun("clusters")) == made == _cluster(run, extend=True)


def test_rows_that_do_not_fit_start_a_fit_that_keeps_the_clusters_numbers(ray_cluster, tmp_path, caplog):
    """Shifted rows pass the bound: all rows are fitted from the standing centroids, and old rows keep their numbers."""
    run, rows, before = _made(tmp_path / "run", shift=1.5)
    bound = _cluster(run, extend=True, refit_share=1).metrics
    assert bound["fit_of_new"]["share_low"] > 0.5
    assert bound["iterations"] == 0
    _write(run, rows, 2)  # a piece of no rows: the same new rows are judged again, by another bound
    made = _cluster(run, extend=True)
    assert "refit_share=0.05" in caplog.text
    assert made.metrics["iterations"] > 0
    assert made.metrics["objective"] > bound["objective"]
    after = read_all(run.noun("clusters"))["cluster"].to_numpy()
    assert (after[:OLD] == before["cluster"].to_numpy()).mean() > 0.8
    anew = _cluster(run, label="anew")
    other = read_all(run.noun("clusters", "anew"))["cluster"].to_numpy()
    assert (other[:OLD] == before["cluster"].to_numpy()).mean() < 0.8, "a fit of its own numbers them anew"
    assert anew.fingerprint != made.fingerprint


@pytest.mark.parametrize("stop", ["fit_of_new_rows", "begin_refit", "sizes_of"])
def test_an_extension_that_was_cut_off_goes_on(ray_cluster, tmp_path, monkeypatch, stop):
    """Stopped at each step of an extension that ends in a new fit: going on gives the bits of one without a stop."""
    whole, *_ = _made(tmp_path / "whole", shift=1.5)
    run, *_ = _made(tmp_path / "cut", shift=1.5)
    expected = _cluster(whole, extend=True)

    def cut(*arguments):
        if stop == "begin_refit":
            original(*arguments)
        raise KeyboardInterrupt

    original = getattr(stage, stop)
    with monkeypatch.context() as patched:
        patched.setattr(stage, stop, cut)
        with pytest.raises(KeyboardInterrupt):
            _cluster(run, extend=True)
    assert run.noun("clusters").manifest() is None
    made = _cluster(run, extend=True)
    assert read_all(run.noun("clusters")).equals(read_all(whole.noun("clusters")))
    assert np.array_equal(_centroids(run), _centroids(whole))
    assert made.fingerprint == expected.fingerprint
    assert made.metrics["fit_of_new"] == expected.metrics["fit_of_new"]


def _standing(folder, shift: float = 0.0) -> tuple[Run, np.ndarray, np.ndarray]:
    """As `_made`, without a session: clusters of the old rows at eight of them, as a fit would leave them."""
    run, old = Run(str(folder)), _rows(OLD, 1)
    _write(run, old, 0)
    features, noun = run.noun("features").require("extract"), run.noun("clusters")
    centroids_KD = old[:CLUSTERS].astype(np.float32)
    scores_NK = old.astype(np.float64) @ centroids_KD.astype(np.float64).T
    noun.begin(describe("cluster", ClusterConfig(clusters=CLUSTERS), {"features": features.fingerprint}, [features]))
    noun.foresee(100.0)
    for shard in range(OLD // PART):
        part = scores_NK[shard * PART : (shard + 1) * PART]
        keys = run.noun("features").read_part(shard, ["key"])["key"]
        found = {"key": keys, "cluster": part.argmax(axis=1).astype(np.int32), "similarity": part.max(axis=1)}
        extra = {"similarity": float(part.max(axis=1).sum())}
        noun.commit_part(shard, pa.table(found).cast(ASSIGNED), rows_in=PART, extra=extra)
    sizes_K = np.bincount(scores_NK.argmax(axis=1), minlength=CLUSTERS)
    centroid = features_column(centroids_KD, np.float32)
    noun.write_table("centroids.parquet", pa.table({"cluster": range(CLUSTERS), "centroid": centroid, "size": sizes_K}))
    noun.finish()
    rows = np.concatenate([old, _rows(NEW, 2, shift)])
    _write(run, rows, 1)
    return run, rows, centroids_KD


def test_few_new_rows_are_assigned_in_this_process(monkeypatch, tmp_path):
    """No session is started; parts and centroids stay, new rows get the argmax, and a second call finds all done."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(stage, "in_session", lambda _: pytest.fail("a session was asked for"))
    run, rows, centroids_KD = _standing(tmp_path / "run")
    before = read_all(run.noun("clusters"))
    config = ClusterConfig(clusters=CLUSTERS, extend=True, refit_share=1)
    made = cluster(run, config)
    after = read_all(run.noun("clusters"))
    assert after.slice(0, OLD).equals(before)
    assert after["cluster"].to_pylist() == (rows.astype(np.float64) @ centroids_KD.T).argmax(axis=1).tolist()
    assert np.array_equal(_centroids(run), centroids_KD)
    assert (made.rows_out, made.metrics["fit_of_new"]["new_rows"], made.metrics["iterations"]) == (OLD + NEW, NEW, 0)
    assert made.estimated_seconds == pytest.approx(100, abs=0.1), "of the fit and of the few rows, as its seconds are"
    assert required(run.noun("clusters")) == made == cluster(run, config)
    assert not (tmp_path / "run/clusters/main/checkpoint").exists()


def test_few_rows_that_do_not_fit_are_left_to_a_session(monkeypatch, tmp_path):
    """It goes on from the standing centroids, as after a kill."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(stage, "in_session", lambda _: lambda run, _: run.noun("clusters").read_json("work.json"))
    run, _, centroids_KD = _standing(tmp_path / "run", shift=1.5)
    work = cluster(run, ClusterConfig(clusters=CLUSTERS, extend=True, refit_share=0))
    assert "start" in work["description"]["inputs"]
    state = FitState.load(run.noun("clusters"))
    assert (state.fitted, state.upcoming, state.fit_of_new["new_rows"]) == (False, 0, NEW)
    assert run.noun("clusters").records() == {}
    assert np.array_equal(_centroids(run), centroids_KD)


def test_many_new_rows_or_a_fit_of_all_are_no_work_for_one_process(tmp_path):
    run, _, _ = _standing(tmp_path / "run")
    assert few_came(run, ClusterConfig(clusters=CLUSTERS, extend=True))
    assert not few_came(run, ClusterConfig(clusters=CLUSTERS))
    assert not few_came(run, ClusterConfig(clusters=1 << 30, extend=True))
    assert not few_came(run, ClusterConfig(clusters=CLUSTERS, extend=True, label="other"))
