"""Exact sums of the rows of each cluster, kept up to date by the rows that moved.

Sums are float64 and exact (see ``exactness``), so adding a moved row to its new cluster and subtracting it from its
old one gives the very bits that a full recomputation gives. After the first iterations few rows move, and the update
costs next to nothing.

On a CPU the rows of a block are grouped by cluster and added in float32 runs that cannot round: entries are multiples
of 2^-24, so a float32 partial sum is exact while it stays within [-1, 1], that is for floor(1 / max|x|) rows. One
float64 addition per run follows. Cost: 4 D bytes read per moved row and direction, 16 D bytes per run.
Measured on two AVX-512 cores: 50,000 rows of 2,560 in 0.1 s, against 2.2 s with ``index_add_`` in float64.
"""

from __future__ import annotations

import numpy as np
import torch


class ClusterSums:
    """Sums float64 [K, D] and sizes int64 [K] of the assigned rows; which clusters a row entered or left, bool [K]."""

    def __init__(self, num_clusters: int, dim: int, device: torch.device) -> None:
        self.sums_KD = torch.zeros((num_clusters, dim), dtype=torch.float64, device=device)
        self.sizes_K = torch.zeros(num_clusters, dtype=torch.int64, device=device)
        self.touched_K = torch.zeros(num_clusters, dtype=torch.bool, device=device)

    def move(self, rows_ND: torch.Tensor, before_N: torch.Tensor, after_N: torch.Tensor, largest: float = 1.0) -> None:
        """Take rows from cluster ``before`` (-1: none) to ``after``; both int64 [N].

        ``rows_ND`` holds float16 values, as float16 or float32; ``largest`` is a bound on their magnitude. A tight one
        makes it faster.
        """
        assert largest <= 1.0, "rows of a magnitude above 1 have no exact sums"
        known_N = (before_N >= 0).nonzero().ravel()
        clusters_E = torch.cat([after_N, before_N[known_N]])
        signs_E = torch.ones(len(clusters_E), device=rows_ND.device)
        signs_E[len(after_N) :] = -1
        rows_E = torch.cat([torch.arange(len(after_N), device=rows_ND.device), known_N])
        self.sizes_K.index_add_(0, clusters_E, signs_E.long())
        self.touched_K[clusters_E] = True
        if rows_ND.device.type == "cuda":
            self._scatter(rows_ND, rows_E, clusters_E, signs_E)
        elif len(rows_E):
            self._add_runs(rows_ND.float(), rows_E, clusters_E, signs_E, int(1.0 / max(largest, 2.0**-24)))

    def _add_runs(
        self,
        rows_ND: torch.Tensor,
        rows_E: torch.Tensor,
        clusters_E: torch.Tensor,
        signs_E: torch.Tensor,
        longest: int,
    ) -> None:
        clusters_E, order = torch.sort(clusters_E, stable=True)
        starts_R = _run_starts(clusters_E, longest)
        totals_RD = torch.nn.functional.embedding_bag(
            rows_E[order], rows_ND, starts_R, mode="sum", per_sample_weights=signs_E[order]
        ).numpy()
        sums = self.sums_KD.numpy()
        for cluster, total_D in zip(clusters_E[starts_R].tolist(), totals_RD, strict=True):
            np.add(sums[cluster], total_D, out=sums[cluster])

    def _scatter(
        self, rows_ND: torch.Tensor, rows_E: torch.Tensor, clusters_E: torch.Tensor, signs_E: torch.Tensor
    ) -> None:
        """On a GPU: float64 atomics, whose order is free and does not matter."""
        for entries in torch.arange(len(rows_E), device=rows_E.device).split(8192):
            values = rows_ND.index_select(0, rows_E[entries]).double() * signs_E[entries, None].double()
            self.sums_KD.index_add_(0, clusters_E[entries], values)


def _run_starts(clusters_E: torch.Tensor, longest: int) -> torch.Tensor:
    """Starts of runs of one cluster, none longer than ``longest``, in a sorted list of clusters."""
    position_E = torch.arange(len(clusters_E))
    first_E = torch.ones(len(clusters_E), dtype=torch.bool)
    first_E[1:] = clusters_E[1:] != clusters_E[:-1]
    since_E = position_E - torch.cummax(torch.where(first_E, position_E, 0), dim=0).values
    return (since_E % longest == 0).nonzero().ravel()
