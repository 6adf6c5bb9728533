from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection.chunks import chunk_of, interleaved_ranks, num_chunks
from raycurate.selection.keys import key_array
from raycurate.selection.mmd import rank_chunk, rank_cluster
from tests.selection import naive_coincide
from tests.selection.selection_cases import sample_keys, unit_features


@pytest.mark.parametrize("seed", range(24))
def test_full_order_equals_the_published_formula(seed: int) -> None:
    """Every pick, to the last row, is the float64 argmin of MMD^2 over all candidates (oracle 3)."""
    rows = 5 + 2 * (seed % 20)
    features = unit_features(rows, 24, seed, spread=0.2 + 0.1 * (seed % 10))
    keys = np.array(sorted(sample_keys(rows, seed)), dtype=np.bytes_)
    sigma = (0.5, 1.0, 2.0)[seed % 3]
    order = rank_cluster(features, keys, sigma=sigma).order_N
    assert order.tolist() == naive_coincide.greedy(naive_coincide.kernel(features, sigma), rows)


def test_seventy_rows_equal_both_forms_of_the_reference() -> None:
    """The published subsets, the plain formula and the incremental form agree on 70 rows."""
    features = unit_features(70, 32, 77)
    keys = np.array(sorted(sample_keys(70)), dtype=np.bytes_)
    picks = rank_cluster(features, keys).order_N[:20].tolist()
    reference = naive_coincide.kernel(features, 1.0)
    assert picks == naive_coincide.greedy(reference, 20) == naive_coincide.greedy_by_subsets(reference, 20)


@given(seed=st.integers(0, 2**31), copies=st.integers(2, 5))
def test_duplicates_equal_the_reference_and_break_ties_by_key(seed: int, copies: int) -> None:
    """Exact copies tie exactly: the reference's picks with the lowest key first."""
    features = np.repeat(unit_features(5, 12, seed, spread=1.0), copies, axis=0)
    features = features[np.random.default_rng(seed).permutation(features.shape[0])]
    keys = np.array(sorted(sample_keys(features.shape[0], seed)), dtype=np.bytes_)
    order = rank_cluster(features, keys).order_N.tolist()
    assert order == naive_coincide.greedy(naive_coincide.kernel(features, 1.0), len(order))


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 60))
def test_order_of_rows_does_not_matter(seed: int, rows: int) -> None:
    """The rank of a key is the same however the rows arrive (oracle 9)."""
    features = unit_features(rows, 16, seed)
    keys = np.array(sample_keys(rows, seed), dtype=np.bytes_)
    mixed = np.random.default_rng(seed).permutation(rows)
    ranking = rank_cluster(features, keys)
    other = rank_cluster(features[mixed], keys[mixed])
    assert (other.rank_N == ranking.rank_N[mixed]).all()
    assert (other.kernel_mean_N == ranking.kernel_mean_N[mixed]).all()
    assert other.density == ranking.density
    assert sorted(ranking.rank_N.tolist()) == list(range(rows))


def test_singleton_and_empty_clusters_are_ranked() -> None:
    """One row has rank 0; no rows have no ranks."""
    one = rank_cluster(unit_features(1, 8, 0), np.array([b"a"]))
    assert one.rank_N.tolist() == [0]
    assert one.kernel_mean_N.tolist() == [1.0]
    none = rank_cluster(np.zeros((0, 8), dtype=np.float16), key_array(pa.array([], type=pa.string())))
    assert none.rank_N.tolist() == []
    assert none.density.size == 0


def test_identical_rows_are_ranked_by_key() -> None:
    """A cluster of copies is in the order of its keys."""
    keys = np.array([b"c", b"a", b"d", b"b"])
    ranking = rank_cluster(np.repeat(unit_features(1, 8, 0), 4, axis=0), keys)
    assert keys[ranking.order_N].tolist() == [b"a", b"b", b"c", b"d"]


def test_features_that_are_not_finite_name_their_key() -> None:
    """NaN and infinity end with one message that names a row."""
    features = unit_features(3, 8, 0)
    features[1, 2] = np.nan
    with pytest.raises(UserError, match="1 feature rows are not finite, the first is b"):
        rank_cluster(features, np.array([b"a", b"b", b"c"]))


def test_chunked_stage_equals_the_whole_call() -> None:
    """Ranking chunk by chunk, as a stage does, gives what `rank_cluster` gives at once."""
    features, keys = unit_features(300, 16, 9), np.array(sample_keys(300), dtype=np.bytes_)
    whole = rank_cluster(features, keys, max_rows=64)
    count = num_chunks(300, 64)
    chunk = chunk_of(keys, count)
    sizes = np.bincount(chunk, minlength=count).tolist()
    assert sorted(whole.rank_N.tolist()) == list(range(300))
    for part in range(count):
        rows = np.flatnonzero(chunk == part)
        ranking = rank_chunk(features[rows], keys[rows])
        assert (interleaved_ranks(ranking.rank_N, part, sizes) == whole.rank_N[rows]).all()


def test_number_of_threads_does_not_change_the_bits() -> None:
    """One thread or several: the same kernel sums, hence the same order and density."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    features, keys = unit_features(400, 512, 6), np.array(sample_keys(400), dtype=np.bytes_)
    rankings = []
    for threads in (1, 2, 3):
        with threadpoolctl.threadpool_limits(threads):
            rankings.append(rank_cluster(features, keys))
    assert all((other.rank_N == rankings[0].rank_N).all() for other in rankings)
    assert all((other.kernel_mean_N == rankings[0].kernel_mean_N).all() for other in rankings)


def test_small_kernel_memory_gives_the_same_order() -> None:
    """The limit on kernel memory changes the cost and nothing else."""
    features, keys = unit_features(200, 16, 3), np.array(sample_keys(200), dtype=np.bytes_)
    whole = rank_cluster(features, keys)
    small = rank_cluster(features, keys, kernel_bytes=4 * 200 * 10)
    assert (whole.rank_N == small.rank_N).all()
    assert whole.density == small.density
