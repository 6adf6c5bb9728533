"""Tests of raycurate.clustering.exactness."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.clustering.exactness import on_grid, row_dots, tree_sum, unit_centroids
from tests.clustering.clustering_cases import grid_centroids, mixture


def test_dot_products_of_rows_and_grid_centroids_do_not_round():
    """A float64 dot product equals the rational one, bit for bit."""
    rows, centroids = mixture(4, 300, 3), grid_centroids(mixture(4, 300, 3, seed=1))
    products = rows.double() @ centroids.double().T
    for i in range(4):
        for k in range(4):
            pairs = zip(rows[i].tolist(), centroids[k].tolist(), strict=True)
            assert Fraction(float(products[i, k])) == sum(Fraction(a) * Fraction(b) for a, b in pairs)


@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 10**6))
def test_tree_sum_does_not_depend_on_the_other_rows(width, num_rows, seed):
    """Each row's sum has the same bits alone and in company, and is the sum."""
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal((num_rows, width)))
    together = tree_sum(values)
    assert torch.equal(together, torch.cat([tree_sum(values[i : i + 1]) for i in range(num_rows)]))
    assert torch.allclose(together, values.sum(dim=1), rtol=1e-12, atol=1e-12)


def test_unit_centroids_are_unit_on_the_grid_and_leave_the_sums_alone():
    """Norm 1 to float32, multiples of 2^-28, zero sums keep the fallback, the argument is not changed."""
    sums = mixture(5, 64, 2).double() * 37
    sums[2] = 0
    before, fallback = sums.clone(), grid_centroids(mixture(5, 64, 2, seed=3))
    centroids = unit_centroids(sums, fallback)
    assert torch.equal(sums, before)
    assert torch.equal(centroids[2], fallback[2])
    assert torch.allclose(centroids.norm(dim=1), torch.ones(5), atol=1e-6)
    scaled = centroids.double() * 2**28
    assert torch.equal(scaled, scaled.round())


def test_grid_rounding_is_finer_than_float32_needs():
    """Rounding to the grid moves an entry by at most 2^-29."""
    values = torch.rand(1000, dtype=torch.float64) * 2.0**-5
    assert float((on_grid(values).double() - values).abs().max()) <= 2.0**-29


def test_row_dots_match_einsum():
    """Row by row products."""
    left, right = mixture(7, 50, 2).double(), mixture(7, 50, 2, seed=4).double()
    assert torch.allclose(row_dots(left, right), torch.einsum("kd,kd->k", left, right), rtol=1e-12)
