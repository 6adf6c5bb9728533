"""Tests of raycurate.clustering.repair."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.clustering.repair import apply_splits, plan_splits
from tests.clustering.clustering_cases import grid_centroids, mixture


def test_the_largest_cluster_gives_and_is_halved_each_time():
    """Sizes 10, 0, 6, 0, 0: 10 splits into 5 and 5, then 6 into 3 and 3, then a 5."""
    assert plan_splits([10, 0, 6, 0, 0]) == [(1, 0), (3, 2), (4, 0)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_every_empty_cluster_is_filled_while_there_are_rows_to_share(sizes):
    """Each empty cluster appears once; none is left while some cluster has two rows to share."""
    splits = plan_splits(sizes)
    empties = [k for k, size in enumerate(sizes) if size == 0]
    spare = sum(size - 1 for size in sizes if size > 1)
    assert [empty for empty, _ in splits] == empties[: min(len(empties), spare)]


def test_splits_are_symmetric_unit_and_distinct():
    """The pair lies about the old centroid; several splits of one donor give different vectors."""
    centroids = grid_centroids(mixture(4, 200, 2))
    old = centroids[0].clone()
    apply_splits(centroids, [(1, 0), (2, 0), (3, 1)])
    assert torch.allclose(centroids.norm(dim=1), torch.ones(4), atol=1e-6)
    assert len(torch.unique(centroids, dim=0)) == 4
    assert bool((centroids @ old > 0.99999).all())
