from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection.chunks import chunk_of, interleaved_ranks, num_chunks
from tests.selection.selection_cases import sample_keys


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_interleaved_ranks_are_a_permutation_in_rank_order(sizes: list[int]) -> None:
    """All chunks together have the ranks 0 .. n-1, ordered by (rank in chunk, chunk)."""
    places = [
        (int(rank), local, chunk)
        for chunk, size in enumerate(sizes)
        for local, rank in enumerate(interleaved_ranks(np.arange(size), chunk, sizes))
    ]
    assert [place[0] for place in sorted(places)] == list(range(sum(sizes)))
    assert [place[1:] for place in sorted(places)] == sorted(place[1:] for place in places)


def test_chunks_stay_below_the_limit() -> None:
    """Hash-made chunks of a large cluster fit in the memory they were made for."""
    keys = np.array(sample_keys(30_000), dtype=np.bytes_)
    count = num_chunks(30_000, 10_000)
    sizes = np.bincount(chunk_of(keys, count), minlength=count)
    assert count == 4
    assert sizes.max() <= 10_000
    assert num_chunks(10_000, 10_000) == 1


def test_copies_of_one_sample_are_spread_over_chunks() -> None:
    """Keys that share the content hash do not crowd one chunk."""
    keys = np.array([f"{'0' * 32}-{row}" for row in range(8_000)], dtype=np.bytes_)
    sizes = np.bincount(chunk_of(keys, 8), minlength=8)
    assert sizes.min() > 850
