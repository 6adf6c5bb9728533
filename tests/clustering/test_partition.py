"""Tests of raycurate.clustering.partition: skipping rows never changes a label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycurate.clustering.partition import ArrayRows, Partition
from raycurate.clustering.product import BFLOAT16, FLOAT32, NUMPY
from raycurate.clustering.screening import Screen
from tests.clustering.clustering_cases import grid_centroids, mixture


@pytest.mark.parametrize("product", [FLOAT32, NUMPY, BFLOAT16])
@pytest.mark.parametrize("step", [1e-4, 1e-3, 1e-2, 0.1, 1.0])
def test_skipped_rows_have_the_labels_that_scoring_gives(product, step):
    """Centroids that drift by small and large steps: labels and sums of a partition that starts anew."""
    rows = mixture(400, 48, 8, spread=0.7)
    rng = np.random.default_rng(0)
    centroids = grid_centroids(mixture(10, 48, 8, spread=0.7, seed=1))
    partition = Partition(ArrayRows(rows), 10, rows.device, block_rows=64)
    for _ in range(8):
        partition.step(Screen(centroids, product=product))
        fresh = Partition(ArrayRows(rows), 10, rows.device)
        fresh.step(Screen(centroids))
        assert torch.equal(partition.labels_N, fresh.labels_N)
        assert torch.equal(partition.totals.sums_KD, fresh.totals.sums_KD)
        assert torch.equal(partition.totals.sizes_K, fresh.totals.sizes_K)
        centroids = grid_centroids(centroids + step * torch.from_numpy(rng.standard_normal((10, 48))) / 48**0.5)


@pytest.mark.parametrize(("product", "most"), [(FLOAT32, 30), (NUMPY, 30), (BFLOAT16, 60)])
def test_rows_that_cannot_have_moved_are_not_scored(monkeypatch, product, most):
    """A second step with the same centroids scores the undecided rows only, and moves none."""
    rows = mixture(300, 48, 8)
    centroids = grid_centroids(mixture(8, 48, 8, seed=1))
    partition = Partition(ArrayRows(rows), 8, rows.device)
    assert partition.step(Screen(centroids, product=product)) == 300
    scored = []
    nearest = Screen.nearest

    def counting(self, rows_ND, prepared_ND=None):
        scored.append(len(rows_ND))
        return nearest(self, rows_ND, prepared_ND)

    monkeypatch.setattr(Screen, "nearest", counting)
    assert partition.step(Screen(centroids, product=product)) == 0
    assert sum(scored) < most
