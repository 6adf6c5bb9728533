"""Spherical k-means on one array: the loop that the Ray stage distributes, and the reference for its results.

    label_i = argmax_k x_i . c_k          (exact, ties to the lowest cluster; see screening)
    c_k     = normalise(sum_{label_i = k} x_i)                 (exact sums; see exactness, sums)
    J       = 1/N sum_i x_i . c_label_i = 1/N sum_k S_k . c_k  (from the sums: no extra pass)

The published pipeline's k-means (``faiss.Kmeans(spherical=True)``): K distinct random rows first, centroids normalised
after every iteration, empty clusters repaired, one last assignment to the final centroids. J of an iteration is the
mean similarity to the centroids that it started from, as in faiss.

Cost: iterations * 2 N K D FLOP. Memory: the rows, K D (8 + 4 + 4 + 4) bytes, one block of scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raycurate.clustering.exactness import on_grid, row_dots, tree_sum, unit_centroids
from raycurate.clustering.guards import check_clustering, check_counts, check_rows, imbalance, near_twins
from raycurate.clustering.partition import ArrayRows, Partition
from raycurate.clustering.projection import Projection
from raycurate.clustering.repair import Split, apply_splits, plan_splits
from raycurate.clustering.screening import Screen
from raycurate.clustering.seeding import (
    SEED_SAMPLE_FACTOR,
    distinct_first,
    key_hashes,
    row_digests,
    smallest,
    spread_out,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KMeansSettings:
    """What determines a clustering, and ``block_rows``, which does not."""

    clusters: int
    iterations: int = 50
    seed: int = 1234
    init: str = "random"
    precision: str = "exact"
    tolerance: float = 1e-5
    project: int | None = None
    block_rows: int = 4096


@dataclass(frozen=True, slots=True)
class IterationReport:
    """One iteration: mean similarity to its starting centroids, rows that moved, clusters found empty and split.

    ``moved`` is None where a lost worker's earlier labels are not known.
    """

    iteration: int
    objective: float
    moved: int | None
    empty: int
    splits: list[Split] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KMeansResult:
    """Centroids float32 [K, D], labels int32 [N], similarities float32 [N], sizes int64 [K], and the history."""

    centroids_KD: NDArray[np.float32]
    labels_N: NDArray[np.int32]
    similarities_N: NDArray[np.float32]
    sizes_K: NDArray[np.int64]
    history: list[IterationReport]
    twins: int

    @property
    def objective(self) -> float:
        """Mean similarity of the rows to their final centroids."""
        return float(np.mean(self.similarities_N, dtype=np.float64))

    @property
    def imbalance(self) -> float:
        """K * sum(n^2) / N^2."""
        return imbalance(self.sizes_K.tolist())


def has_converged(history: Sequence[IterationReport], tolerance: float) -> bool:
    """Whether the last iteration gained less than ``tolerance`` relatively, or moved nothing at all."""
    if not history or history[-1].splits:
        return False
    if history[-1].moved == 0:
        return True
    if tolerance <= 0 or len(history) < 2 or history[-2].splits:
        return False
    gain = history[-1].objective - history[-2].objective
    return gain <= tolerance * abs(history[-1].objective)


def report_of(iteration: int, dots_K: Sequence[float], sizes: Sequence[int], moved: int | None) -> IterationReport:
    """The report of an iteration from its per-cluster sums of similarities (added exactly) and sizes."""
    splits = plan_splits(sizes)
    empty = sum(1 for size in sizes if size == 0)
    return IterationReport(iteration, math.fsum(dots_K) / sum(sizes), moved, empty, splits)


def as_unit_rows(features_ND: NDArray[Any] | torch.Tensor) -> torch.Tensor:
    """Any finite float array as float16 unit rows; float16 rows are taken as they are."""
    rows_ND = torch.as_tensor(features_ND)
    if rows_ND.dtype is torch.float16:
        return rows_ND
    wide_ND = rows_ND.double()
    return (wide_ND / tree_sum(wide_ND * wide_ND).sqrt_()[:, None]).half()


def choose_seeds(source: ArrayRows, keys: Sequence[str] | None, settings: KMeansSettings) -> torch.Tensor:
    """The first centroids, float32 [K, D]."""
    names = keys if keys is not None else [str(i) for i in range(source.num_rows)]
    hashes_N = key_hashes(names, settings.seed, "kmeans-init")
    if settings.init == "kmeans++":
        picks = smallest(hashes_N, SEED_SAMPLE_FACTOR * settings.clusters)
        chosen = picks[spread_out(source.take(picks), hashes_N[picks], settings.clusters)]
    else:
        count = 2 * settings.clusters
        while True:
            picks = smallest(hashes_N, count)
            digests = row_digests(source.take(picks).cpu().numpy())
            if len(np.unique(digests)) >= settings.clusters or count >= source.num_rows:
                break
            count *= 2
        chosen = picks[distinct_first(digests, settings.clusters)]
    rows_KD = source.take(chosen)
    return unit_centroids(rows_KD, on_grid(rows_KD.double()))


def iterate(
    partition: Partition, centroids_KD: torch.Tensor, settings: KMeansSettings
) -> tuple[torch.Tensor, list[IterationReport]]:
    """Iterations from given centroids on one partition: the next centroids and the history."""
    history: list[IterationReport] = []
    while len(history) < settings.iterations and not has_converged(history, settings.tolerance):
        moved = partition.step(Screen(centroids_KD, precision=settings.precision))
        dots_K = row_dots(partition.totals.sums_KD, centroids_KD).tolist()
        report = report_of(len(history), dots_K, partition.totals.sizes_K.tolist(), moved)
        centroids_KD = unit_centroids(partition.totals.sums_KD, centroids_KD)
        apply_splits(centroids_KD, report.splits)
        history.append(report)
    return centroids_KD, history


def spherical_kmeans(
    features_ND: NDArray[Any] | torch.Tensor,
    settings: KMeansSettings,
    *,
    keys: Sequence[str] | None = None,
    initial_KD: NDArray[np.float32] | None = None,
    may_collapse: bool = False,
) -> KMeansResult:
    """Cluster rows in one process, on the device they lie on.

    ``features_ND`` are float16 unit rows, or any floats, which are normalised first. ``keys`` name the rows for the
    choice of the first centroids (default: their numbers); ``initial_KD`` gives these centroids instead. With
    ``project`` the labels come from projected rows, the returned centroids from the rows themselves. Centroids that are
    nearly all alike, or one cluster of nearly all rows, are an error unless the clustering ``may_collapse``.
    """
    check_counts(settings.clusters, len(features_ND))
    original_ND = as_unit_rows(features_ND)
    rows_ND, largest = original_ND, check_rows(original_ND, keys)
    if settings.project is not None:
        rows_ND = Projection(original_ND.shape[1], settings.project, settings.seed, original_ND.device)(original_ND)
        largest = check_rows(rows_ND, keys, "the projected features")
    source = ArrayRows(rows_ND, largest)
    if initial_KD is None:
        centroids_KD = choose_seeds(source, keys, settings)
    else:
        given_KD = torch.as_tensor(initial_KD, dtype=torch.float64, device=rows_ND.device)
        centroids_KD = unit_centroids(given_KD, on_grid(given_KD))
    partition = Partition(source, settings.clusters, rows_ND.device, settings.block_rows)
    centroids_KD, history = iterate(partition, centroids_KD, settings)
    made = _finish(partition, centroids_KD, history, settings, original_ND)
    if not may_collapse:
        check_clustering(made.twins, made.sizes_K.tolist())
    return made


def _finish(
    partition: Partition,
    centroids_KD: torch.Tensor,
    history: list[IterationReport],
    settings: KMeansSettings,
    original_ND: torch.Tensor,
) -> KMeansResult:
    screen = Screen(centroids_KD, precision=settings.precision)
    partition.step(screen)
    labels_N = partition.labels_N.long()
    similarities_N = torch.cat(
        [
            screen.similarities(rows_ND, labels_N[start : start + rows_ND.shape[0]])
            for start, rows_ND in partition.source.blocks(partition.block_rows)
        ]
    )
    sizes_K = partition.totals.sizes_K
    twins = near_twins(centroids_KD)
    if settings.project is not None:
        centroids_KD = lifted_centroids(original_ND, labels_N, settings)
    return KMeansResult(
        centroids_KD.cpu().numpy(),
        labels_N.int().cpu().numpy(),
        similarities_N.cpu().numpy(),
        sizes_K.cpu().numpy(),
        history,
        twins,
    )


def lifted_centroids(original_ND: torch.Tensor, labels_N: torch.Tensor, settings: KMeansSettings) -> torch.Tensor:
    """Mean directions of the original rows of each cluster, float32 [K, D]; empty clusters get zeros."""
    lifted = Partition(ArrayRows(original_ND), settings.clusters, original_ND.device, settings.block_rows)
    for start, rows_ND in lifted.source.blocks(lifted.block_rows):
        after_N = labels_N[start : start + rows_ND.shape[0]]
        lifted.totals.move(rows_ND, torch.full_like(after_N, -1), after_N)
    sums_KD = lifted.totals.sums_KD
    return unit_centroids(sums_KD, torch.zeros_like(sums_KD, dtype=torch.float32))
