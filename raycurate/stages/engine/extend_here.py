"""``cluster --extend`` of few new rows in one process, in less time than a cluster and its workers take to start.

Rows go to the centroids that stand, part by part, as an actor of `cluster` assigns them: the bits are the same. Where
too many rows fit badly (`standing_clusters.py`) the fit of all rows is left to a session.
Cost: 2 n K D FLOP for n new rows on all cores of this machine; the cluster and similarity of every row are read.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from raycurate.clustering.guards import check_clustering, imbalance
from raycurate.config import ClusterConfig
from raycurate.estimate.formulas import cluster_work
from raycurate.run.manifest import Manifest
from raycurate.run.progress import Progress
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.fit_state import FitState
from raycurate.stages.engine.foreseen import foresee
from raycurate.stages.engine.standing_clusters import fit_of_new_rows, told

VALUES_HERE = 50_000_000
"""Numbers of the new rows that one process reads and assigns in the seconds that a cluster takes to start."""
FLOP_HERE = 4e11
"""Likewise FLOP of their products."""
log = logging.getLogger("raycurate")


def few_came(run: Run, config: ClusterConfig) -> bool:
    """Whether so few rows came since the clusters were made that one process extends them at once."""
    features = run.noun("features", config.features).manifest()
    standing = run.noun("clusters", config.label).manifest()
    if not config.extend or features is None or standing is None:
        return False
    values = max(0, features.rows_out - standing.rows_out) * int(features.metrics["dimension"])
    return values <= VALUES_HERE and 2.0 * values * config.clusters <= FLOP_HERE


def extend_here(
    features: Noun, noun: Noun, config: ClusterConfig, made: Manifest, standing: dict[str, Any]
) -> dict[str, Any] | None:
    """Assign the new rows of an extension that was begun, and publish it.

    Args:
        features: that have grown.
        noun: the clusters.
        config: the settings.
        made: the features' manifest.
        standing: the extension's description.

    Returns:
        None; or how the rows lie, where all are to be fitted anew and nothing is published.
    """
    import torch

    from raycurate.stages.workers.kmeans import KMeansJob, KMeansWorker

    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    job = KMeansJob(
        features=features,
        clusters=noun,
        config=config,
        dim=int(made.metrics["dimension"]),
        ranges=((0, config.clusters),),
        threads=config.threads or cores,
        on_gpu=False,
        sharing=1,
    )
    state, missing = FitState.load(noun), noun.missing(made.shards)
    done = sum(record.rows_in for record in noun.records().values())
    work = functools.partial(cluster_work, made.rows_out - done, job.dim, config.clusters, iterations=0, workers=1)
    foresee(noun, work, cpus=float(cores), more=True)
    try:
        worker = KMeansWorker(job, 0, tuple(range(made.shards)))
        worker.restore(state.name, state.pieces, state.splits)
        check_clustering(twins := worker.settle(), state.sizes)
        with Progress("cluster", made.rows_out, "rows", noun=noun, done=done) as progress:
            for shard in missing:
                progress.advance(worker.assign_part(shard).rows_in)
            state.fit_of_new = fit_of_new_rows(noun, standing["inputs"]["fitted"][1], made.shards)
            if refits(state.fit_of_new, config):
                return state.fit_of_new
            sizes = sizes_of(noun, config.clusters, made.shards)
            worker.write_centroids(sizes)
    finally:
        torch.set_num_threads(threads)
    noun.finish(metrics=metrics_of(noun, state, sizes, twins))
    return None


def refits(found: dict[str, Any], config: ClusterConfig) -> bool:
    """Whether rows since the fit lie so badly that all are fitted anew; either way a line tells how they lie."""
    asked = found["share_low"] > config.refit_share or config.refit_share == 0
    log.log(logging.WARNING if asked else logging.INFO, "cluster: %s", told(found))
    if asked:
        log.warning("cluster: more than refit_share=%g: all rows are fitted anew from here", config.refit_share)
    return asked


def sizes_of(noun: Noun, num_clusters: int, num_shards: int) -> list[int]:
    """Rows per cluster, from the committed parts."""
    sizes_K = np.zeros(num_clusters, dtype=np.int64)
    for shard in range(num_shards):
        labels = noun.read_part(shard, ["cluster"])["cluster"].to_numpy()
        sizes_K += np.bincount(labels, minlength=num_clusters)
    return sizes_K.tolist()


def metrics_of(noun: Noun, state: FitState, sizes: list[int], twins: int) -> dict[str, Any]:
    """What the manifest says about the clustering."""
    records = noun.records().values()
    similarity = math.fsum(record.extra["similarity"] for record in records)
    rows_by_node: Counter[str] = Counter()
    for record in records:
        rows_by_node[record.extra.get("node", "")] += record.rows_in  # parts of an earlier version name none
    counts = Counter(size == 0 for size in sizes)
    return {
        "clusters": len(sizes),
        "objective": similarity / sum(sizes),
        "iterations": len(state.history),
        "imbalance": imbalance(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "empty": counts[True],
        "near_twins": twins,
        "rows_by_node": dict(rows_by_node),
        "history": [asdict(report) for report in state.history],
        **({"fit_of_new": state.fit_of_new} if state.fit_of_new else {}),
    }
