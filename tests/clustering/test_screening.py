"""Tests of raycurate.clustering.screening: the assignment is the true argmax."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.clustering import screening
from raycurate.clustering.product import BFLOAT16, FLOAT32, NUMPY
from raycurate.clustering.screening import Centred, Screen
from tests.clustering.clustering_cases import grid_centroids, mixture

PRODUCTS = [FLOAT32, NUMPY, BFLOAT16]


def naive(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The lowest cluster of the largest exact inner product."""
    scores = rows.double() @ centroids.double().T
    clusters = torch.arange(len(centroids)).expand_as(scores)
    best = scores == scores.max(dim=1, keepdim=True).values
    return torch.where(best, clusters, len(centroids)).min(dim=1).values


@pytest.mark.parametrize("product", PRODUCTS)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 90), st.integers(0, 10**6))
def test_assignment_is_the_true_argmax(product, num_rows, num_clusters, dim, seed):
    """Against naive float64, for any shape."""
    rows = mixture(num_rows, dim, 3, seed=seed)
    centroids = grid_centroids(mixture(num_clusters, dim, 3, seed=seed + 1))
    assert torch.equal(Screen(centroids, product=product).assign(rows), naive(rows, centroids))


@pytest.mark.parametrize("product", PRODUCTS)
def test_near_ties_are_decided_exactly(product):
    """Centroids that differ by one grid step in one entry are told apart."""
    rows = mixture(200, 40, 1, spread=1.0)
    centroids = grid_centroids(rows[:1].float()).repeat(12, 1)
    for k in range(1, 12):
        centroids[k, k] += (-1) ** k * 2.0**-26
    found = Screen(centroids, product=product).assign(rows)
    assert torch.equal(found, naive(rows, centroids))
    assert len(found.unique()) > 1


@pytest.mark.parametrize("product", PRODUCTS)
def test_exact_ties_go_to_the_lowest_cluster(product):
    """Equal centroids: the first of them gets the rows."""
    rows = mixture(50, 30, 2)
    centroids = grid_centroids(mixture(3, 30, 2, seed=5))[[0, 1, 1, 2, 0, 2]]
    found = Screen(centroids, product=product).assign(rows)
    assert set(found.tolist()) <= {0, 1, 3}
    assert torch.equal(found, naive(rows, centroids))


@pytest.mark.parametrize("product", PRODUCTS)
def test_blocks_threads_and_chunks_do_not_matter(product, monkeypatch):
    """The same labels and similarities row by row, in tiny score blocks, and with one thread."""
    rows, centroids = mixture(300, 64, 5), grid_centroids(mixture(20, 64, 5, seed=2))
    screen = Screen(centroids, product=product)
    labels = screen.assign(rows)
    similarities = screen.similarities(rows, labels)
    monkeypatch.setattr(screening, "SCORE_BYTES", {"cpu": 4 * 20 * 7})
    monkeypatch.setattr(screening, "PAIR_BYTES", {"cpu": 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(screen.assign(rows), labels)
        assert torch.equal(screen.similarities(rows, labels), similarities)
        single = torch.cat([screen.assign(rows[i : i + 1]) for i in range(len(rows))])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(single, labels)


def test_similarities_are_the_exact_products_rounded_once():
    """float32 of the float64 inner product."""
    rows, centroids = mixture(100, 64, 4), grid_centroids(mixture(8, 64, 4, seed=2))
    labels = naive(rows, centroids)
    exact = (rows.double() * centroids.double()[labels]).sum(dim=1).float()
    assert torch.equal(Screen(centroids).similarities(rows, labels), exact)


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_error_bound_holds(product):
    """No score of the screen is further from the exact one than the bound says."""
    rows, centroids = mixture(200, 512, 3), grid_centroids(mixture(30, 512, 3, seed=2))
    centred = Centred.build(centroids, product.dtype)
    exact = rows.double() @ (centroids.double() - centroids.mean(dim=0).double()).T
    scores = torch.empty(200, 30, dtype=product.dtype)
    product.fill(rows.to(product.dtype), centred.vectors_KD, scores)
    output = screening.ROUNDOFF[product.dtype] * 1.01 * scores.double().abs()
    assert bool(((scores.double() - exact).abs() <= centred.error + output).all())


def test_fast_takes_the_screens_own_argmax():
    """Almost always the same cluster, without rescoring."""
    rows, centroids = mixture(300, 64, 5), grid_centroids(mixture(20, 64, 5, seed=2))
    fast = Screen(centroids, precision="fast", product=BFLOAT16).assign(rows)
    scores = rows.double() @ centroids.double().T
    lost = scores.max(dim=1).values - scores.gather(1, fast[:, None])[:, 0]
    assert float(lost.max()) < 0.02
