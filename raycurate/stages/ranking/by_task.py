"""The rows of one task of the dataset, clustered by themselves and ordered cluster by cluster.

    rows of a task --spherical k-means--> clusters --the method's order of each--> ranks

Rows whose features are zero have no image: they are cluster `NO_IMAGE`, in the order of their keys. The other clusters
of all tasks have numbers of their own, which follow from the tasks' sizes alone. k-means is exact, so that labels are
the same on any cluster; a task whose images are nearly all alike is no error, it has clusters of copies.

Memory: the rows of the task, and what the method and k-means take; cost: that of the k-means, and of the method.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raycurate.features.rows import features_of_table
from raycurate.selection.cells import CellTable
from raycurate.selection.keys import key_array
from raycurate.selection.ranked import NO_IMAGE, GroupRows, Ordering, RankedInTasks
from raycurate.stages.ranking.rows import ranked_rows

ITERATIONS = 20
SEED = 1234


def rank_task(
    rows: pa.Table, tasks: CellTable, task: int, method: RankedInTasks
) -> tuple[pa.Table, list[tuple[str, int, int]]]:
    """Rank the rows of one task.

    Args:
        rows: sorted by key.
        tasks: the sizes of all tasks.
        task: which one.
        method: says how many clusters, and orders each.

    Returns:
        The rows with their ranks, and task, cluster and size of each cluster that holds rows.
    """
    features_ND = features_of_table(rows)
    shown_N = features_ND.any(axis=1)
    cluster_N = np.full(rows.num_rows, NO_IMAGE, dtype=np.int64)
    first = 1 + sum(method.rank_clusters(int(size)) for size in tasks.size_C[:task])
    similarity_N = np.full(rows.num_rows, np.nan)
    if shown_N.any():
        labels_N, similarity_N[shown_N] = _clusters(rows.filter(pa.array(shown_N)), features_ND[shown_N], method)
        cluster_N[shown_N] = first + labels_N
    parts, cells = [], []
    for cluster in np.unique(cluster_N).tolist():
        at = np.flatnonzero(cluster_N == cluster)
        similarity = pa.array(similarity_N[at], pa.float32(), from_pandas=True)
        own = rows.take(pa.array(at)).drop_columns("similarity").append_column("similarity", similarity)
        parts.append(ranked_rows(own, cluster, _ordering(own, features_ND[at], similarity_N[at], cluster, method)))
        cells.append((tasks.tasks[tasks.task_C[task]], cluster, len(at)))
    return pa.concat_tables(parts), cells


def _clusters(rows: pa.Table, features_ND: np.ndarray, method: RankedInTasks) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each row, from 0 on, and its cosine to the centroid."""
    # torch, which takes longer to import than a small selection to be made, and which no other order needs.
    from raycurate.clustering.kmeans import KMeansSettings, spherical_kmeans

    clusters = method.rank_clusters(len(features_ND))
    settings = KMeansSettings(clusters=clusters, iterations=ITERATIONS, seed=SEED)
    made = spherical_kmeans(features_ND, settings, keys=rows["key"].to_pylist(), may_collapse=True)
    return made.labels_N, made.similarities_N


def _ordering(
    rows: pa.Table, features_ND: np.ndarray, similarity_N: np.ndarray, cluster: int, method: RankedInTasks
) -> Ordering:
    if cluster == NO_IMAGE:
        return Ordering(rank_N=np.arange(rows.num_rows), value_N=np.full(rows.num_rows, np.nan))
    nothing_N = np.full(rows.num_rows, np.nan)
    return method.rank_group(
        GroupRows(features_ND=features_ND, keys_N=key_array(rows["key"]), similarity_N=similarity_N, score_N=nothing_N)
    )
