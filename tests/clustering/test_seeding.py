"""Tests of raycurate.clustering.seeding."""

from __future__ import annotations

import numpy as np
import torch

from raycurate.clustering.seeding import distinct_first, key_hashes, row_digests, smallest, spread_out
from tests.clustering.clustering_cases import mixture


def test_hashes_depend_on_key_seed_and_purpose_only():
    """The same key has the same hash anywhere; another seed or purpose gives another."""
    keys = [f"{i:032x}-0" for i in range(50)]
    hashes = key_hashes(keys, 1, "init")
    assert np.array_equal(hashes[::-1], key_hashes(keys[::-1], 1, "init"))
    assert not np.array_equal(hashes, key_hashes(keys, 2, "init"))
    assert not np.array_equal(hashes, key_hashes(keys, 1, "sample"))


def test_smallest_is_sorted_and_complete():
    """The positions of the smallest hashes in ascending order; all of them where more are asked for."""
    hashes = np.array([5, 1, 9, 3], dtype=np.uint64)
    assert smallest(hashes, 2).tolist() == [1, 3]
    assert smallest(hashes, 10).tolist() == [1, 3, 0, 2]


def test_repeated_vectors_are_passed_over_until_nothing_else_is_left():
    """Distinct digests first, in order; repeats only to fill up."""
    digests = np.array([7, 7, 4, 7, 2], dtype=np.uint64)
    assert distinct_first(digests, 3).tolist() == [0, 2, 4]
    assert distinct_first(digests, 4).tolist() == [0, 2, 4, 1]


def test_digests_name_the_bytes_of_a_row():
    """Equal rows, equal digests."""
    rows = mixture(3, 16, 2).numpy()[[0, 1, 0, 2]]
    digests = row_digests(rows)
    assert digests[0] == digests[2]
    assert len(set(digests.tolist())) == 3


def test_kmeans_plus_plus_visits_every_far_group():
    """Four tight groups, four picks: one of each; never a row twice, even if rows repeat."""
    groups = mixture(4, 64, 4, spread=0.0, seed=8)
    rows = groups[torch.arange(40) % 4]
    hashes = key_hashes([str(i) for i in range(40)], 0, "init")
    picks = spread_out(rows, hashes, 4)
    assert len(torch.unique(rows[picks], dim=0)) == len(torch.unique(rows, dim=0))
    assert len(set(spread_out(rows, hashes, 6))) == 6
