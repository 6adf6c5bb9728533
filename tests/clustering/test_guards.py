"""Tests of raycurate.clustering.guards: failures are loud and say what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycurate.clustering.guards import (
    check_clustering,
    check_counts,
    check_different,
    check_rows,
    imbalance,
    near_twins,
)
from raycurate.errors import UserError
from tests.clustering.clustering_cases import grid_centroids, mixture


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (np.inf, "infinite"), (0.0, "zeros"), (0.5, "norm")])
def test_a_bad_row_is_named_with_its_key_and_its_fault(value, words):
    """NaN, infinite, zero and non-unit rows."""
    rows = mixture(10, 16, 2)
    rows[7] = rows[7] * value if value == 0.5 else value
    with pytest.raises(UserError, match=words) as error:
        check_rows(rows, [f"key{i}" for i in range(10)], "features/main")
    assert "key7" in str(error.value)
    assert "features/main" in str(error.value)


def test_good_rows_give_their_largest_magnitude():
    """The bound that the sums use."""
    rows = mixture(10, 16, 2)
    assert check_rows(rows) == float(rows.abs().max())


@pytest.mark.parametrize(("clusters", "rows"), [(0, 5), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(clusters, rows):
    """K < 1 and K > N."""
    with pytest.raises(UserError, match="clusters is"):
        check_counts(clusters, rows)


def test_twins_are_counted_and_collapse_is_refused():
    """Many near-identical centroids end the run; a few do not."""
    centroids = grid_centroids(mixture(20, 32, 20, spread=1.0))
    assert near_twins(centroids) == 0
    centroids[1] = centroids[0]
    assert near_twins(centroids) == 2
    check_clustering(2, [5] * 20)
    with pytest.raises(UserError, match="collapsed.*twin"):
        check_clustering(near_twins(torch.ones(20, 4) / 2), [5] * 20)


def test_one_cluster_that_holds_everything_is_refused():
    """More than 90 percent in one of ten or more clusters."""
    with pytest.raises(UserError, match="holds 991 of 1000"):
        check_clustering(0, [991] + [1] * 9)
    check_clustering(0, [991, 9])


def test_imbalance_is_one_for_equal_clusters():
    """K sum n^2 / N^2."""
    assert imbalance([3, 3, 3]) == 1.0
    assert imbalance([9, 0, 0]) == 3.0


def test_copies_are_named_where_there_are_fewer_rows_than_clusters():
    """Not a model that was not trained: the rows are the same."""
    check_different(20, 20, 100)
    check_different(9, 7, 140)
    with pytest.raises(UserError, match="20 clusters .* only 7 of the 140 rows .* --clusters to 7 at most"):
        check_different(20, 7, 140)
