"""Tests of raycurate.clustering.sums: exact, whatever the order."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.clustering.sums import ClusterSums, _run_starts
from tests.clustering.clustering_cases import mixture, unit_half


def naive(rows: torch.Tensor, labels: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """Float64 sums, one row after the other."""
    sums = torch.zeros(num_clusters, rows.shape[1], dtype=torch.float64)
    for row, label in zip(rows, labels.tolist(), strict=True):
        sums[label] += row.double()
    return sums


@given(st.integers(1, 80), st.integers(1, 6), st.integers(1, 40), st.integers(0, 10**6), st.booleans())
def test_moves_in_any_order_give_the_sums_of_the_last_labels(num_rows, num_clusters, dim, seed, sparse):
    """Shuffled, repeated delta updates end in the bits of a full recomputation."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((num_rows, dim)) * (rng.random((num_rows, dim)) < (0.3 if sparse else 1.0))
    values[:, 0] += 1e-3
    rows = unit_half(values)
    totals = ClusterSums(num_clusters, dim, rows.device)
    before = torch.full((num_rows,), -1)
    for _ in range(3):
        after = torch.from_numpy(rng.integers(0, num_clusters, num_rows))
        order = torch.from_numpy(rng.permutation(num_rows))
        for part in order.split(17):
            totals.move(rows[part], before[part], after[part], float(rows.abs().max()))
        before = after
    assert torch.equal(totals.sums_KD, naive(rows, before, num_clusters))
    assert totals.sizes_K.tolist() == torch.bincount(before, minlength=num_clusters).tolist()


def test_a_loose_bound_on_the_magnitude_changes_nothing():
    """Runs of one row, the slowest case, give the same bits."""
    rows = mixture(200, 30, 3)
    labels = torch.arange(200) % 4
    tight, loose = ClusterSums(4, 30, rows.device), ClusterSums(4, 30, rows.device)
    tight.move(rows, torch.full((200,), -1), labels, float(rows.abs().max()))
    loose.move(rows, torch.full((200,), -1), labels)
    assert torch.equal(tight.sums_KD, loose.sums_KD)


def test_runs_are_never_longer_than_allowed():
    """Starts of runs by cluster, cut at the longest."""
    clusters = torch.tensor([0, 0, 0, 0, 0, 2, 2, 5])
    assert _run_starts(clusters, 2).tolist() == [0, 2, 4, 5, 7]
    assert _run_starts(clusters, 100).tolist() == [0, 5, 7]


def test_the_scatter_of_a_gpu_gives_the_bits_of_the_runs():
    """The branch that only a GPU takes, on the CPU's tensors: moves in and out, more than one chunk of entries."""
    rows = mixture(9000, 12, 3)
    rng = np.random.default_rng(0)
    before, after = (torch.from_numpy(rng.integers(-1 if part == 0 else 0, 5, 9000)) for part in range(2))
    runs, scattered = ClusterSums(5, 12, rows.device), ClusterSums(5, 12, rows.device)
    runs.move(rows, before, after, float(rows.abs().max()))
    known = (before >= 0).nonzero().ravel()
    clusters = torch.cat([after, before[known]])
    signs = torch.cat([torch.ones(9000), -torch.ones(len(known))])
    scattered._scatter(rows, torch.cat([torch.arange(9000), known]), clusters, signs)
    assert torch.equal(scattered.sums_KD, runs.sums_KD)
