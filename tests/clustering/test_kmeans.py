"""Tests of raycurate.clustering.kmeans in one process."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from raycurate.clustering import KMeansSettings, spherical_kmeans
from raycurate.clustering.kmeans import IterationReport, as_unit_rows, has_converged
from raycurate.errors import UserError
from tests.clustering.clustering_cases import mixture


def same(left, right) -> bool:
    """Whether two results have the same bits."""
    return (
        np.array_equal(left.centroids_KD, right.centroids_KD)
        and np.array_equal(left.labels_N, right.labels_N)
        and np.array_equal(left.similarities_N, right.similarities_N)
        and [h.objective for h in left.history] == [h.objective for h in right.history]
    )


def test_the_objective_is_that_of_faiss_from_the_same_first_centroids():
    """Every iteration's mean similarity within 0.1 percent on random rows."""
    rows = mixture(2000, 48, 12, spread=1.0)
    first = rows[:20].float().numpy()
    yardstick = faiss.Kmeans(48, 20, niter=8, spherical=True, seed=1)
    yardstick.train(rows.float().numpy(), init_centroids=first)
    result = spherical_kmeans(rows, KMeansSettings(clusters=20, iterations=8, tolerance=0.0), initial_KD=first)
    ours = np.array([report.objective for report in result.history])
    theirs = np.asarray(yardstick.obj) / len(rows)
    shared = min(len(ours), len(theirs))
    assert np.allclose(ours[:shared], theirs[:shared], rtol=1e-3)
    assert result.objective == pytest.approx(theirs[-1], rel=1e-3)


@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_the_order_of_rows_and_the_size_of_blocks_do_not_matter(init):
    """Shuffled rows with their keys, other blocks: the same centroids, and the same label for each key."""
    rows = mixture(500, 40, 6)
    keys = [f"{i:032x}-0" for i in range(500)]
    order = np.random.default_rng(3).permutation(500)
    settings = KMeansSettings(clusters=12, iterations=6, init=init)
    result = spherical_kmeans(rows, settings, keys=keys)
    other = KMeansSettings(clusters=12, iterations=6, init=init, block_rows=37)
    shuffled = spherical_kmeans(rows[order], other, keys=[keys[i] for i in order])
    assert np.array_equal(result.centroids_KD, shuffled.centroids_KD)
    assert np.array_equal(result.labels_N[order], shuffled.labels_N)
    assert np.array_equal(result.similarities_N[order], shuffled.similarities_N)


def test_threads_do_not_matter():
    """One thread and two give the same bits."""
    rows, settings = mixture(400, 64, 5), KMeansSettings(clusters=10, iterations=5)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(spherical_kmeans(rows, settings))
    torch.set_num_threads(threads)
    assert same(*results)


def test_the_objective_never_falls_and_iteration_stops_when_it_stands():
    """Monotone up to the grid; fewer iterations than allowed."""
    result = spherical_kmeans(mixture(600, 32, 5), KMeansSettings(clusters=5, iterations=50))
    objectives = [report.objective for report in result.history]
    assert all(b >= a - 1e-6 for a, b in zip(objectives, objectives[1:], strict=False))
    assert len(objectives) < 50


def test_sizes_similarities_and_centroids_agree_with_the_labels():
    """sizes = counts of labels; similarities = inner products; centroids are unit."""
    rows = mixture(300, 32, 5)
    result = spherical_kmeans(rows, KMeansSettings(clusters=7, iterations=4))
    assert result.sizes_K.tolist() == np.bincount(result.labels_N, minlength=7).tolist()
    products = np.einsum("nd,nd->n", rows.double().numpy(), result.centroids_KD[result.labels_N].astype(np.float64))
    assert np.array_equal(result.similarities_N, products.astype(np.float32))
    assert np.allclose(np.linalg.norm(result.centroids_KD, axis=1), 1, atol=1e-6)
    assert result.imbalance >= 1


def test_empty_clusters_are_repaired():
    """First centroids that leave clusters empty do not stay empty."""
    rows = mixture(300, 32, 6, spread=1.0)
    first = np.concatenate([rows[:4].float().numpy(), np.repeat(rows[:1].float().numpy(), 4, axis=0)])
    result = spherical_kmeans(rows, KMeansSettings(clusters=8, iterations=10, tolerance=0.0), initial_KD=first)
    assert result.history[0].empty == 4
    assert len(result.history[0].splits) == 4
    assert result.sizes_K.min() > 0


def test_fast_precision_reaches_the_same_objective():
    """Within 0.1 percent of exact."""
    rows = mixture(800, 64, 8, spread=1.0)
    exact = spherical_kmeans(rows, KMeansSettings(clusters=8, iterations=8))
    fast = spherical_kmeans(rows, KMeansSettings(clusters=8, iterations=8, precision="fast"))
    assert fast.objective == pytest.approx(exact.objective, rel=1e-3)


def test_projection_clusters_in_few_dimensions_and_returns_centroids_in_all():
    """Groups are found; centroids are the mean directions of the original rows."""
    rows = mixture(400, 600, 4, spread=0.2)
    result = spherical_kmeans(rows, KMeansSettings(clusters=4, iterations=10, project=64, init="kmeans++"))
    assert result.centroids_KD.shape == (4, 600)
    sums = np.stack([rows.double().numpy()[result.labels_N == k].sum(axis=0) for k in range(4)])
    assert np.allclose(result.centroids_KD, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)


def test_duplicated_rows_do_not_become_two_first_centroids():
    """Few distinct vectors, as many clusters: every one gets its own."""
    distinct = mixture(6, 32, 6, spread=1.0)
    rows = distinct[torch.arange(120) % 6]
    result = spherical_kmeans(rows, KMeansSettings(clusters=6, iterations=3))
    assert result.sizes_K.tolist() == [20] * 6
    assert np.allclose(result.similarities_N, 1, atol=1e-3)


def test_collapsed_features_are_refused():
    """All rows alike and many clusters."""
    rows = as_unit_rows(1.0 + 1e-4 * np.random.default_rng(0).standard_normal((300, 32)))
    with pytest.raises(UserError, match="collapsed"):
        spherical_kmeans(rows, KMeansSettings(clusters=20, iterations=3))


def test_more_clusters_than_rows_and_bad_rows_are_refused():
    """K > N, NaN."""
    rows = mixture(5, 8, 2)
    with pytest.raises(UserError, match="only 5 rows"):
        spherical_kmeans(rows, KMeansSettings(clusters=6))
    rows[3, 0] = float("nan")
    with pytest.raises(UserError, match="row 3"):
        spherical_kmeans(rows, KMeansSettings(clusters=2))


def test_convergence_rules():
    """Gain below tolerance, nothing moved; never right after a split, never by gain with tolerance 0."""
    first, second = IterationReport(0, 0.5, 9, 0), IterationReport(1, 0.500001, 3, 0)
    assert has_converged([first, second], 1e-5)
    assert not has_converged([first, second], 0.0)
    assert not has_converged([first], 1e-5)
    assert has_converged([first, IterationReport(1, 0.6, 0, 0)], 0.0)
    assert not has_converged([first, IterationReport(1, 0.5, 0, 1, [(0, 1)])], 1e-5)
    assert not has_converged([first, IterationReport(1, 0.6, None, 0)], 1e-5)
