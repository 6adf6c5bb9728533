"""Checks that fail loudly where k-means would go wrong quietly.

The failures that users of k-means on model features report: NaN rows, rows of zero norm, every centroid the same
vector (a model that gives one feature for all inputs), one cluster that swallows the data. Each ends in a
``UserError`` that says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raycurate.clustering.exactness import row_blocks, wide_blocks
from raycurate.clustering.screening import MAX_ROW_NORM
from raycurate.errors import UserError

MIN_CHECKED_CLUSTERS = 10
TWIN_COSINE = 0.9999
MAX_TWIN_SHARE = 0.5
MAX_LARGEST_SHARE = 0.9
TWIN_SAMPLE = 2048


def check_different(num_clusters: int, different: int, num_rows: int) -> None:
    """Raise where there are fewer different rows than clusters; fewer than ten clusters are not judged."""
    if different < num_clusters and num_clusters >= MIN_CHECKED_CLUSTERS:
        raise UserError(
            f"{num_clusters} clusters are asked for, but only {different} of the {num_rows} rows have different "
            f"features: the others are copies of them. Set --clusters to {different} at most, or remove duplicates; "
            "where they are no copies, check the model and the layers of `raycurate extract`"
        )


def check_counts(num_clusters: int, num_rows: int) -> None:
    """Raise unless 1 <= K <= N."""
    if num_clusters < 1:
        raise UserError(f"clusters is {num_clusters}, it must be at least 1. Set --clusters to about rows / 66.")
    if num_clusters > num_rows:
        raise UserError(
            f"clusters is {num_clusters} but there are only {num_rows} rows to cluster. Set --clusters to at most "
            f"{num_rows} (about rows / 66 = {max(1, num_rows // 66)} is usual), or raise fit_sample if it is set."
        )


def check_rows(rows_ND: torch.Tensor, keys_N: Sequence[Any] | None = None, where: str = "the features") -> float:
    """Raise on NaN, infinite, zero or clearly non-unit rows; return the largest magnitude of an entry."""
    worst = 0.0
    for rows in wide_blocks(rows_ND):
        block = rows_ND[rows].float()
        norms_N = torch.linalg.vector_norm(block, dim=1)
        wrong = ~((norms_N > 2 - MAX_ROW_NORM) & (norms_N < MAX_ROW_NORM))
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0, 0])
            index = rows.start + first
            name = f"row {index}" if keys_N is None else f"the row with key {keys_N[index]}"
            raise UserError(_row_message(float(norms_N[first]), int(wrong.sum()), name, where))
        low, high = torch.aminmax(block)
        worst = max(worst, -float(low), float(high))
    if worst > 1.0:
        raise UserError(f"{where} holds an entry of magnitude {worst:.4g}; rows of norm 1 have none above 1.")
    return worst


def _row_message(norm: float, count: int, name: str, where: str) -> str:
    if norm != norm or norm == float("inf"):
        what = "holds NaN or infinite values"
    elif norm == 0:
        what = "is all zeros"
    else:
        what = f"has norm {norm:.4g}"
    return (
        f"{name} in {where} {what} ({count} such rows in its block). k-means needs finite rows of norm 1: extract the "
        "features again (`raycurate extract`, in float32 if the model overflows in float16), or drop these rows."
    )


def near_twins(centroids_KD: torch.Tensor) -> int:
    """How many of the first ``TWIN_SAMPLE`` centroids have another one at cosine > 0.9999 among them."""
    sample = centroids_KD[:TWIN_SAMPLE].float()
    twins = 0
    for rows in row_blocks(sample.shape[0], 256):
        cosines = sample[rows] @ sample.T
        cosines[torch.arange(cosines.shape[0]), torch.arange(rows.start, rows.stop)] = -1.0
        twins += int((cosines > TWIN_COSINE).any(dim=1).sum())
    return twins


def check_clustering(twins: int, sizes: Sequence[int]) -> None:
    """Raise where the clustering has collapsed; fewer than ten clusters are not judged."""
    num_clusters, total = len(sizes), sum(sizes)
    if num_clusters < MIN_CHECKED_CLUSTERS:
        return
    looked_at = min(num_clusters, TWIN_SAMPLE)
    if twins > MAX_TWIN_SHARE * looked_at:
        raise UserError(
            f"k-means collapsed: {twins} of {looked_at} centroids have a twin at cosine > {TWIN_COSINE}. The features "
            "hardly differ between rows: check the model and the layers of `raycurate extract` (a model that was not "
            f"trained, or wrong layers, does this), or set --clusters well below {num_clusters}."
        )
    if max(sizes) > MAX_LARGEST_SHARE * total:
        raise UserError(
            f"k-means collapsed: one of {num_clusters} clusters holds {max(sizes)} of {total} rows. Most rows have "
            "nearly the same features: check the model and the layers of `raycurate extract`, remove duplicates, or "
            "try init=kmeans++."
        )


def imbalance(sizes: Sequence[int]) -> float:
    """K * sum(n^2) / N^2: 1 for equal clusters, K for one that holds everything."""
    total = sum(sizes)
    return len(sizes) * sum(n * n for n in sizes) / total**2 if total else 0.0
