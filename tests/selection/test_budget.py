from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection.budget import Guards, allocate, cluster_scores, softmax
from tests.selection import naive_coincide

SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=30)


@given(
    sizes=SIZES,
    seed=st.integers(0, 10_000),
    ratio=st.floats(0.01, 1.0),
    temperature=st.sampled_from([1e-3, 0.02, 0.05, 0.1, 1.0, 50.0]),
)
def test_quotas_equal_the_published_allocator(sizes: list[int], seed: int, ratio: float, temperature: float) -> None:
    """Suffix sums give the integers of the sequential form, which is passed again only if rows are missing."""
    random = np.random.default_rng(seed)
    scores = random.normal(0.5, 0.1, len(sizes)) / random.uniform(0.7, 1.0, len(sizes))
    target = round(ratio * sum(sizes))
    found = allocate(scores, np.array(sizes), target, temperature=temperature)
    single = naive_coincide.allocate(scores.tolist(), sizes, target, temperature)
    assert found.quota_K.tolist() == naive_coincide.allocate_all(scores.tolist(), sizes, target, temperature)
    assert found.redistributed == target - sum(single)
    if found.redistributed == 0:
        assert found.quota_K.tolist() == single
    assert found.quota_K.sum() == target
    assert (found.quota_K <= sizes).all()
    assert found.probability_K.sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-12, 1e300])
def test_extreme_temperatures_do_not_overflow(temperature: float) -> None:
    """From one cluster takes all to all alike, without a NaN."""
    scores, sizes = np.array([0.5, 0.9, 0.1, 0.9]), np.array([10, 10, 10, 10])
    found = allocate(scores, sizes, 15, temperature=temperature)
    assert found.quota_K.sum() == 15
    assert np.isfinite(found.probability_K).all()
    if temperature < 1:
        assert found.quota_K.tolist() == [0, 8, 0, 7]


def test_equal_scores_share_equally_and_ties_go_to_the_lower_cluster() -> None:
    """Rounding half to even over equal weights; the order is the cluster ids."""
    found = allocate(np.zeros(4), np.full(4, 100), 10, temperature=0.1)
    assert found.quota_K.tolist() == naive_coincide.allocate([0.0] * 4, [100] * 4, 10, 0.1) == [2, 3, 2, 3]


def test_what_full_clusters_cannot_take_goes_round_again() -> None:
    """The published pass ends short when the tail is full; here the target is met exactly."""
    scores, sizes = np.array([1.0, 0.9, 0.8]), np.array([100, 100, 1])
    single = naive_coincide.allocate(scores.tolist(), sizes.tolist(), 60, 1.0)
    found = allocate(scores, sizes, 60, temperature=1.0)
    assert sum(single) < 60
    assert found.quota_K.sum() == 60
    assert found.redistributed == 60 - sum(single)


def test_fewer_rows_than_the_target_keeps_all() -> None:
    """A target above the rows there are takes every row."""
    found = allocate(np.array([0.3, 0.4]), np.array([5, 7]), 100, temperature=0.1)
    assert found.quota_K.tolist() == [5, 7]


def test_empty_clusters_take_no_part() -> None:
    """They have probability and quota zero and do not dilute the others."""
    found = allocate(np.array([0.9, 0.0, 0.4]), np.array([5, 0, 7]), 6, temperature=0.1)
    rest = allocate(np.array([0.9, 0.4]), np.array([5, 7]), 6, temperature=0.1)
    assert found.quota_K[[0, 2]].tolist() == rest.quota_K.tolist()
    assert (found.probability_K[1], found.quota_K[1]) == (0, 0)
    assert allocate(np.zeros(0), np.zeros(0, dtype=int), 3, temperature=0.1).quota_K.shape == (0,)


def test_guards_bound_each_cluster() -> None:
    """A least number and a largest part of every cluster hold, and the target is still met."""
    scores, sizes = np.array([3.0, 1.0, 0.1]), np.array([40, 40, 40])
    free = allocate(scores, sizes, 40, temperature=0.1)
    found = allocate(scores, sizes, 40, temperature=0.1, guards=Guards(min_cluster_keep=4, max_keep_fraction=0.5))
    assert free.quota_K.tolist() == [40, 0, 0]
    assert found.quota_K.sum() == 40
    assert found.quota_K.tolist() == [20, 16, 4]


def test_guards_that_cannot_hold_are_user_errors() -> None:
    """The message says how many rows the guards ask for."""
    with pytest.raises(UserError, match="asks for 9 rows"):
        allocate(np.ones(3), np.full(3, 9), 5, temperature=0.1, guards=Guards(min_cluster_keep=3))
    with pytest.raises(UserError, match="min_cluster_keep is -1"):
        Guards(min_cluster_keep=-1)
    with pytest.raises(UserError, match="max_keep_fraction is 0"):
        Guards(max_keep_fraction=0.0)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_temperature_is_a_user_error(temperature: float) -> None:
    """The temperature must be a positive number."""
    with pytest.raises(UserError, match="temperature is"):
        softmax(np.ones(3), temperature)


def test_weightings_are_the_ablations() -> None:
    """S / D, S, 1 / D and nothing; a density of zero stays finite."""
    s, d = np.array([0.4, 0.6]), np.array([0.8, 0.5])
    assert cluster_scores(s, d).tolist() == pytest.approx([0.5, 1.2])
    assert cluster_scores(s, d, "transferability").tolist() == [0.4, 0.6]
    assert cluster_scores(s, d, "density").tolist() == [1.25, 2.0]
    assert cluster_scores(s, d, "equal").tolist() == [0.0, 0.0]
    assert np.isfinite(softmax(cluster_scores(s, np.zeros(2)), 1e-6)).all()
    with pytest.raises(UserError, match="density of cluster number 1 is nan"):
        cluster_scores(s, np.array([0.5, np.nan]))


def test_ten_thousand_clusters_meet_the_target() -> None:
    """The paper's size of problem at its ratios gives exactly the target."""
    random = np.random.default_rng(0)
    sizes = 1 + random.poisson(random.exponential(65, 10_000))
    scores = random.normal(0.4, 0.1, 10_000) / random.uniform(0.8, 1.0, 10_000)
    for ratio in (0.05, 0.2, 0.6, 0.95, 1.0):
        target = round(ratio * sizes.sum())
        assert allocate(scores, sizes, target, temperature=0.1).quota_K.sum() == target
