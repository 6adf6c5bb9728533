"""What the centroids tell: a map of the clusters, how far each is of use to others, which of different tasks are alike.

    S_i = mean_j cos(e_i, e_j)      (COINCIDE, Eq. 5);      of a task: mean of S over its rows, each with its cluster's

The map is the first two principal components of the centroids of at most `MAP_CLUSTERS` of the largest clusters; those
of more than `MAP_DIMS` numbers are first projected to so many by a seeded Gaussian matrix, which keeps distances to
some 10 %. Pairs are looked for among the `PAIR_CLUSTERS` largest.

Cost: two passes over the centroids by blocks of `BLOCK_BYTES`, 2 K D operations each, through a buffer, as they are one
row group. Held are the map's matrix, the pairs' centroids and the projection, at most 8, 40 and 40 MB for rows of
20,480. Limits: of the largest clusters only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raycurate.charts.marks import Dot
from raycurate.features.rows import features_of_table
from raycurate.report.collect import ClusterFacts
from raycurate.run.store import Noun

MAP_CLUSTERS, MAP_DIMS, PAIR_CLUSTERS = 2_000, 512, 500
SHOWN_PAIRS = 12
BLOCK_BYTES, BUFFER_BYTES = 32 << 20, 1 << 20
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two clusters whose largest tasks differ, and the cosine of their centroids."""

    one: int
    other: int
    tasks: tuple[str, str]
    cosine: float


@dataclass(frozen=True, slots=True)
class TaskTransfer:
    """S over the rows of a task: mean, 10th and 90th percentile."""

    task: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the centroids tell.

    Attributes:
        dots: the map.
        transferability: S of each cluster with rows.
        pairs: of different tasks, the most alike first.
    """

    dots: list[Dot] = field(default_factory=list)
    transferability: dict[int, float] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)


def geometry_of(noun: Noun, facts: Sequence[ClusterFacts], tasks: Mapping[int, str]) -> Geometry:
    """Read the centroids of a finished noun twice.

    Args:
        noun: `clusters`.
        facts: of the clusters of a selection.
        tasks: the largest task of each cluster.
    """
    if noun.manifest() is None or not facts:
        return Geometry()
    largest = sorted((each for each in facts if each.size), key=lambda each: (-each.size, each.cluster))
    mapped = {each.cluster: place for place, each in enumerate(largest[:MAP_CLUSTERS])}
    paired = {each.cluster: place for place, each in enumerate(largest[:PAIR_CLUSTERS])}
    mean_D, points, full = _first_pass(noun, {each.cluster for each in largest}, mapped, paired)
    places = _plane(points)
    dots = [
        Dot(each.cluster, float(x), float(y), each.size, each.kept, each.top_tasks)
        for each, (x, y) in zip(largest, places, strict=False)
    ]
    known = {each.cluster for each in largest}
    found = {
        int(cluster): float(s)
        for clusters_B, units_BD in _blocks(noun)
        for cluster, s in zip(clusters_B, units_BD @ mean_D, strict=True)
        if int(cluster) in known
    }
    return Geometry(dots, found, _pairs(full, list(paired), tasks))


def _first_pass(
    noun: Noun, present: set[int], mapped: Mapping[int, int], paired: Mapping[int, int]
) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Mean of the unit centroids, and the rows of the map and of the pairs."""
    mean_D, points, full, projection = np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0), dtype=np.float32), None
    for clusters_B, units_BD in _blocks(noun):
        dim = units_BD.shape[1]
        if not mean_D.size:
            if dim > MAP_DIMS:
                projection = np.random.default_rng(0).standard_normal((dim, MAP_DIMS), dtype=np.float32)
            mean_D, points = np.zeros(dim), np.zeros((len(mapped), min(dim, MAP_DIMS)))
            full = np.zeros((len(paired), dim), dtype=np.float32)
        for place, cluster in enumerate(clusters_B.tolist()):
            if cluster in present:
                mean_D += units_BD[place]
            if cluster in paired:
                full[paired[cluster]] = units_BD[place]
        own = [place for place, cluster in enumerate(clusters_B.tolist()) if cluster in mapped]
        rows_BD = units_BD[own]
        if projection is not None:
            rows_BD = rows_BD.astype(np.float32) @ projection / np.sqrt(MAP_DIMS)
        points[[mapped[int(cluster)] for cluster in clusters_B[own]]] = rows_BD
    return mean_D / max(len(present), 1), points, full


def _blocks(noun: Noun) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Clusters and their centroids at length 1 (or 0), some at a time."""
    path = f"{noun.folder}/centroids.parquet"
    with pq.ParquetFile(path, filesystem=noun.filesystem, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        kind = file.schema_arrow.field("centroid").type
        width = kind.byte_width if pa.types.is_fixed_size_binary(kind) else 4 * kind.list_size
        rows = max(1, BLOCK_BYTES // (2 * width))
        for batch in file.iter_batches(rows, columns=["cluster", "centroid"]):
            table = pa.Table.from_batches([batch])
            wide_BD = features_of_table(table, "centroid", np.float32).astype(np.float64)
            norm_B = np.linalg.norm(wide_BD, axis=1, keepdims=True)
            wide_BD /= np.where(norm_B > 0, norm_B, 1.0)
            yield table["cluster"].to_numpy().astype(np.int64), wide_BD


def _plane(points_KD: Floats) -> Floats:
    """The first two principal components; the largest coordinate of each is positive, so that it has one answer."""
    if not points_KD.size:
        return np.zeros((0, 2))
    points_KD = points_KD - points_KD.mean(axis=0)
    left, scale, _ = np.linalg.svd(points_KD, full_matrices=False)
    places = left[:, :2] * scale[:2] if left.shape[1] > 1 else np.c_[left[:, 0] * scale[0], np.zeros(len(left))]
    signs = np.where(places[np.abs(places).argmax(axis=0), range(places.shape[1])] < 0, -1, 1)
    result: Floats = places * signs
    return result


def _pairs(units_KD: NDArray[np.float32], clusters: Sequence[int], tasks: Mapping[int, str]) -> list[Pair]:
    """The most alike pairs of clusters whose largest tasks differ, each cluster in at most two of them."""
    if len(clusters) < 2:
        return []
    cosine_KK = units_KD @ units_KD.T
    names, code_K = np.unique([tasks.get(cluster, "") for cluster in clusters], return_inverse=True)
    upper = np.triu(code_K[:, None] != code_K[None, :], k=1)
    one_P, other_P = np.nonzero(upper)
    order = np.lexsort((other_P, one_P, -cosine_KK[one_P, other_P]))
    found: list[Pair] = []
    used: Counter[int] = Counter()
    for place in order:
        one, other = int(one_P[place]), int(other_P[place])
        if used[one] < 2 and used[other] < 2:
            used.update((one, other))
            named = (str(names[code_K[one]]), str(names[code_K[other]]))
            found.append(Pair(clusters[one], clusters[other], named, float(cosine_KK[one, other])))
        if len(found) == SHOWN_PAIRS:
            break
    return found


def transfer_of_tasks(counts: Mapping[tuple[int, str], int], s_of: Mapping[int, float]) -> list[TaskTransfer]:
    """S over the rows of each task, the highest mean first."""
    by_task: dict[str, list[tuple[float, int]]] = {}
    for (cluster, task), rows in counts.items():
        if cluster in s_of:
            by_task.setdefault(task, []).append((s_of[cluster], rows))
    found = []
    for task, pairs in by_task.items():
        value_K, rows_K = np.array(sorted(pairs)).T
        reached_K = np.cumsum(rows_K) / rows_K.sum()
        low, high = (float(value_K[np.searchsorted(reached_K, part - 1e-12)]) for part in (0.1, 0.9))
        found.append(TaskTransfer(task, float(value_K @ rows_K / rows_K.sum()), low, high))
    return sorted(found, key=lambda each: (-each.mean, each.task))
