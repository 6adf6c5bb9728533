"""``cluster``: spherical k-means over feature parts on a fixed pool of actors, then one cluster per row.

    features --load--> local rows --(step, reduce) x iterations--> centroids --assign by part--> clusters

Each actor owns a fixed list of feature parts and a range of clusters (see ``kmeans_worker``). Sums are exact and the
assignment is the true argmax, so 1 and 8 workers give the same bits. Centroids are saved after every iteration (less
often where that would take more than a tenth of the time); a killed run goes on from there. When a worker dies, its
place is filled, its rows are read again, all go back to the saved centroids, and the result is the same.
With ``extend`` rows that came since go to the centroids that stand (`engine/standing_clusters.py`).

Cost: iterations * 2 N K D FLOP over the workers; per iteration 12 K D bytes through the object store per worker.
The driver holds K sizes and K similarity sums.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import ray

from raycurate.clustering.guards import check_clustering, check_counts, check_different
from raycurate.clustering.kmeans import has_converged, report_of
from raycurate.clustering.seeding import SEED_SAMPLE_FACTOR, distinct_first
from raycurate.config import ClusterConfig
from raycurate.estimate.formulas import cluster_work
from raycurate.estimate.rates import Rates
from raycurate.estimate.work import Work
from raycurate.ray_session import (
    cluster_cpus,
    cluster_gpus,
    in_session,
    in_session_unless,
    largest_node_cpus,
    node_cpus,
)
from raycurate.run.filesystem import delete_folder, list_files
from raycurate.run.manifest import Manifest
from raycurate.run.progress import Progress
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.extend_here import extend_here, few_came, metrics_of, refits, sizes_of
from raycurate.stages.engine.fit_state import CHECKPOINT, FitState
from raycurate.stages.engine.foreseen import foresee
from raycurate.stages.engine.kmeans_pool import KMeansPool, WorkerLost
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.shards import describe, skip_if_done
from raycurate.stages.engine.standing_clusters import (
    begin_extension,
    begin_refit,
    extended,
    fit_of_new_rows,
    go_on,
)
from raycurate.stages.workers.kmeans import SAMPLE_PURPOSE, KMeansJob, StepReport

MAX_LOSSES = 20
CPUS_BESIDE_GPU = 1.0
CHECKPOINT_SHARE = 0.1
log = logging.getLogger("raycurate")

Result = TypeVar("Result")
PASSES = "row passes"
"""What is counted as progress: every iteration, and at last the assignment, goes over all rows."""


@in_session_unless(few_came)
def cluster(run: Run, config: ClusterConfig) -> Manifest:
    """Write the ``clusters`` noun: key, cluster and similarity per row by feature part, and ``centroids.parquet``."""
    return _cluster(run, config)


def _cluster(run: Run, config: ClusterConfig) -> Manifest:
    features = run.noun("features", config.features)
    feature_manifest = required(features)
    inputs = {"features": feature_manifest.fingerprint}
    description = describe("cluster", config, inputs, [feature_manifest])
    noun = run.noun("clusters", config.label)
    standing = extended(noun, description, feature_manifest) if config.extend else None
    if done := skip_if_done(noun, standing or description):
        return done
    rows = feature_manifest.rows_out
    check_counts(config.clusters, min(rows, config.fit_sample or rows))
    extends = standing is not None and ("fitted" in standing["inputs"] or noun.manifest() is not None)
    if not extends and not ray.is_initialized():
        return in_session(_cluster)(run, config)  # a fit of all rows
    if standing is not None and extends:
        begin_extension(noun, standing)
        if not ray.is_initialized():
            return _extend_here(run, config, standing)
    else:
        begin(noun, standing or description, replace=config.replace)
        go_on(noun)
    job, resources = _plan(features, noun, config, feature_manifest)
    foresee(noun, functools.partial(_work, job, rows), resources["num_gpus"])
    total = (config.iterations + 1) * rows
    with (
        Progress("cluster", total, PASSES, noun=noun) as progress,
        KMeansPool(job, feature_manifest.shards, resources, run.id, progress) as pool,
    ):
        metrics = _make(Fit(job, pool, progress, rows), feature_manifest.shards, standing)
    made = noun.finish(metrics=metrics)
    delete_folder(noun.filesystem, f"{noun.folder}/{CHECKPOINT}")
    return made


def _extend_here(run: Run, config: ClusterConfig, standing: dict[str, Any]) -> Manifest:
    """Few new rows at the centroids that stand, in this process; a new fit, where they do not fit, on a cluster."""
    features, noun = run.noun("features", config.features), run.noun("clusters", config.label)
    found = extend_here(features, noun, config, required(features), standing)
    if found is not None:
        begin_refit(noun, standing, found)
        return in_session(_cluster)(run, config)  # it goes on from there
    delete_folder(noun.filesystem, f"{noun.folder}/{CHECKPOINT}")
    return required(noun)


def _make(fit: Fit, shards: int, standing: dict[str, Any] | None) -> dict[str, Any]:
    """Fit, assign, and write the centroids; what the manifest says."""
    noun, config, pool = fit.job.clusters, fit.job.config, fit.pool
    state = fit.run()
    twins = fit.check()
    fit.progress.set(config.iterations * fit.rows)
    _assign(pool, fit, noun, shards)
    if standing is not None and "fitted" in standing["inputs"]:
        found = fit_of_new_rows(noun, standing["inputs"]["fitted"][1], shards)
        if refits(found, config):
            again = begin_refit(noun, standing, found)
            return _make(Fit(fit.job, pool, fit.progress, fit.rows), shards, again)
        state.fit_of_new = found
    sizes = sizes_of(noun, config.clusters, shards)
    fit.surviving(lambda: _write_centroids(pool, fit.job, sizes))
    return metrics_of(noun, state, sizes, twins)


def cpus_each_fit(workers: int, cpus: Sequence[float]) -> float:
    """The most CPUs that each of so many workers can have at once on nodes with these: one lies on one node."""
    parts = {free / number for free in cpus for number in range(1, workers + 1)}
    fitting = (part for part in parts if sum(int(free / part + 1e-9) for free in cpus) >= workers)
    return max(fitting, default=0.0)


def _plan(features: Noun, noun: Noun, config: ClusterConfig, manifest: Manifest) -> tuple[KMeansJob, dict[str, Any]]:
    """How many workers, what each asks of Ray, and which clusters each adds up."""
    gpus, cpus = cluster_gpus(), cluster_cpus()
    default = int(gpus) if gpus >= 1 else int(cpus) // 2
    workers = max(1, min(config.workers or default, manifest.shards, config.clusters))
    gpus_each = config.gpus_per_worker if config.gpus_per_worker is not None else float(gpus >= 1)
    cpus_each = config.cpus_per_worker or (
        CPUS_BESIDE_GPU if gpus_each else max(0.1, cpus_each_fit(workers, node_cpus()) * 0.9)
    )
    edges = [config.clusters * n // workers for n in range(workers + 1)]
    job = KMeansJob(
        features=features,
        clusters=noun,
        config=config,
        dim=manifest.metrics["dimension"],
        ranges=tuple(zip(edges[:-1], edges[1:], strict=True)),
        threads=config.threads or max(1, round(cpus / workers) if not gpus_each else 4),
        on_gpu=gpus_each > 0,
        sharing=max(1, int(1 / gpus_each)) if gpus_each else min(workers, max(1, int(largest_node_cpus() / cpus_each))),
    )
    return job, {"num_cpus": cpus_each, "num_gpus": gpus_each, "label_selector": config.nodes or None}


def _work(job: KMeansJob, rows: int, rates: Rates) -> Work:
    config = job.config
    return cluster_work(
        rows,
        job.dim,
        config.clusters,
        rates,
        iterations=config.iterations,
        workers=len(job.ranges),
        project=config.project,
        fit_sample=config.fit_sample,
    )


class Fit:
    """The iterations: drives the pool, saves, and repeats what a lost worker spoiled."""

    def __init__(self, job: KMeansJob, pool: KMeansPool, progress: Progress, rows: int) -> None:
        self.job, self.pool, self.progress, self.rows = job, pool, progress, rows
        self.state = FitState.load(job.clusters)
        self.caught_up = False
        self.pieces: Sequence[Any] = ()
        self.losses = 0
        self.saved_at = self.save_seconds = 0.0

    def surviving(self, action: Callable[[], Result]) -> Result:
        """Do ``action`` again from the saved state whenever a worker is lost on the way."""
        while True:
            try:
                if not self.caught_up:
                    self.pool.fill()
                    self._catch_up()
                return action()
            except WorkerLost as lost:
                self.caught_up = self.pool.linked = False
                self.losses += 1
                if self.losses > MAX_LOSSES:
                    raise RuntimeError(f"cluster: {self.losses} workers were lost; the last one: {lost}") from lost

    def run(self) -> FitState:
        """Iterate until the centroids stand; the state of the finished fit."""
        while not self.state.fitted:
            self.surviving(self._advance)
            if self.state.fitted:
                self.caught_up = False  # everybody takes the final centroids from where they were saved
        return self.state

    def check(self) -> int:
        """Free the workers' rows, raise if the clustering has collapsed; how many centroids have a near twin."""
        twins = int(sum(self.surviving(lambda: self.pool.all("settle"))))
        check_clustering(twins, self.state.sizes)
        return twins

    def _catch_up(self) -> None:
        """Bring every worker to the saved state."""
        self.state = FitState.load(self.job.clusters)
        self.pieces = ()
        if not self.state.fitted:
            if self.job.config.fit_sample and self.state.threshold is None:
                self.state.threshold = self._sample_threshold(self.job.config.fit_sample)
            loaded = self.pool.all("load", self.state.threshold)
            check_counts(self.job.config.clusters, sum(loaded))
        if self.state.pieces:
            self.pool.all("restore", self.state.name, self.state.pieces, self.state.splits)
        if self.job.linkable and not self.losses and not self.state.fitted:
            self.pool.link()
        self.caught_up = True

    def _sample_threshold(self, count: int) -> int | None:
        """The hash that ``count`` rows do not exceed; None where there are no more rows than that."""
        hashes = np.sort(np.concatenate(self.pool.all("offer_hashes", SAMPLE_PURPOSE, count)))
        return int(hashes[count - 1]) if len(hashes) > count or self.rows > count else None

    def _advance(self) -> None:
        if not self.state.pieces:
            self._seed()
        else:
            self._iterate()

    def _seed(self) -> None:
        """Choose the first centroids and save them."""
        hashes = self._seed_hashes()
        parts = self.pool.scatter("rows_by_hash", hashes, self.job.ranges, returns=len(self.job.ranges))
        self.pieces = [
            actor.seed_piece.remote(*[part[p] for part in parts]) for p, actor in enumerate(self.pool.actors)
        ]
        self.pool.wait(self.pieces)
        self._save(force=True)

    def _seed_hashes(self) -> np.ndarray:
        """The hashes of the rows that become centroids, in the order of the clusters."""
        num_clusters, config = self.job.config.clusters, self.job.config
        if config.init == "kmeans++":
            count = SEED_SAMPLE_FACTOR * num_clusters
            offers = [hashes for hashes, _ in self.pool.all("offer_digests", count)]
            sample = np.sort(np.concatenate(offers))[:count]
            parts = self.pool.scatter("rows_by_hash", sample, ((0, len(sample)),), returns=1)
            picks = self.pool.get([self.pool.actors[0].spread.remote(sample, *[part[0] for part in parts])])[0]
            return sample[picks]
        count = 2 * num_clusters
        while True:
            offers = self.pool.all("offer_digests", count)
            hashes, digests = (np.concatenate([offer[i] for offer in offers]) for i in range(2))
            order = np.argsort(hashes, kind="stable")[:count]
            different = len(np.unique(digests[order]))
            if count >= self.rows:
                check_different(num_clusters, different, self.rows)
            if different >= num_clusters or count >= self.rows:
                return hashes[order][distinct_first(digests[order], num_clusters)]
            count *= 2

    def _iterate(self) -> None:
        """One iteration: step, reduce, report, save."""
        config, state = self.job.config, self.state
        reports, dots_K = self._add_up_together() if self.pool.linked else self._add_up_by_objects()
        state.sizes = np.sum([report.sizes for report in reports], axis=0).tolist()
        moved = [report.moved for report in reports if report.moved is not None]
        known = sum(moved) if len(moved) == len(reports) else None
        report = report_of(state.upcoming, dots_K.tolist(), state.sizes, known)
        state.history.append(report)
        state.splits = report.splits
        state.upcoming += 1
        state.fitted = state.upcoming == config.iterations or has_converged(state.history, config.tolerance)
        self.progress.measure(kmeans_objective=report.objective)
        self.progress.set(state.upcoming * self.rows, f"mean similarity {report.objective:.6f}")
        self._save(force=state.fitted)

    def _add_up_together(self) -> tuple[list[StepReport], np.ndarray]:
        """Reports and similarity sums per cluster; the workers exchange sums and centroids among themselves."""
        found = self.pool.together("iterate", self.state.upcoming, self.state.splits, *self.pieces)
        self.pieces = ()
        return [report for report, _ in found], np.concatenate([dots for _, dots in found])

    def _add_up_by_objects(self) -> tuple[list[StepReport], np.ndarray]:
        """The same, through Ray's object store."""
        state = self.state
        steps = self.pool.scatter("step", state.upcoming, state.splits, *self.pieces, returns=1 + len(self.job.ranges))
        reports = self.pool.get([step[0] for step in steps])
        reduced = [
            actor.reduce.options(num_returns=2).remote(*[step[1 + p] for step in steps])
            for p, actor in enumerate(self.pool.actors)
        ]
        dots_K = np.concatenate(self.pool.get([dots for dots, _ in reduced]))
        self.pieces = [piece for _, piece in reduced]
        return reports, dots_K

    def _save(self, *, force: bool) -> None:
        """Save the newest centroids, then the state that names them, then drop the older ones."""
        started = time.monotonic()
        if not force and self.save_seconds > CHECKPOINT_SHARE * (started - self.saved_at):
            return
        noun, state = self.job.clusters, self.state
        self.pool.all("save", state.name)
        state.pieces = len(self.pool.actors)
        state.save(noun)
        kept = {"state.json", *(f"{state.name.split('/')[1]}-{n:04d}.parquet" for n in range(state.pieces))}
        for info in list_files(noun.filesystem, f"{noun.folder}/{CHECKPOINT}"):
            if info.base_name not in kept:
                noun.filesystem.delete_file(info.path)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started


def _assign(pool: KMeansPool, fit: Fit, noun: Noun, num_shards: int) -> None:
    """Give every row its cluster, part by part; parts that are committed are not made again."""
    base = pool.progress.done

    def assign_missing() -> None:
        records = noun.records()
        pool.progress.set(base + sum(record.rows_in for record in records.values()))
        for record in _on_idle_actors(pool, [shard for shard in range(num_shards) if shard not in records]):
            pool.progress.advance(record.rows_in)

    fit.surviving(assign_missing)


def _on_idle_actors(pool: KMeansPool, shards: Sequence[int]) -> Iterator[Any]:
    """Records of ``assign_part``, two parts in flight on each actor."""
    waiting = list(reversed(shards))
    idle = [actor for actor in pool.actors for _ in range(2)]
    busy: dict[Any, Any] = {}
    while waiting or busy:
        while waiting and idle:
            actor = idle.pop()
            busy[actor.assign_part.remote(waiting.pop())] = actor
        reference = pool.first_ready(list(busy))
        idle.append(busy.pop(reference))
        yield pool.get([reference])[0]


def _write_centroids(pool: KMeansPool, job: KMeansJob, sizes: list[int]) -> None:
    """Write the centroids; after a projection, the mean directions of the original rows."""
    pieces: list[Any] = []
    if job.config.project is not None:
        sums = pool.scatter("lift", returns=len(job.ranges))
        pieces = [actor.lifted_piece.remote(*[part[p] for part in sums]) for p, actor in enumerate(pool.actors)]
    pool.get([pool.actors[0].write_centroids.remote(sizes, *pieces)])
