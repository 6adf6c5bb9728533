"""The first row by key stays, and every row that goes is like one that stays: as a loop over all pairs has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.cleaning import copies
from raycurate.cleaning.alike import HASH_BITS, by_images, by_words
from raycurate.cleaning.copies import all_copies, find_copies


def naive(similarity: np.ndarray, bound: float) -> list[int]:
    """Who stands for each row; -1 for a row that stays."""
    like: list[int] = []
    for row in range(len(similarity)):
        stays = [other for other in range(row) if like[other] < 0 and similarity[row, other] >= bound]
        like.append(stays[0] if stays else -1)
    return like


@given(st.integers(0, 40), st.integers(0, 9999), st.sampled_from([(1, 1), (3, 2), (4, 7), (64, 64)]))
def test_as_a_loop_over_pairs(rows, seed, sizes):
    """For any blocks and tiles."""
    values = np.random.default_rng(seed).integers(0, 6, (rows, rows)) / 5
    similarity = np.maximum(values, values.T)
    patch = pytest.MonkeyPatch()
    patch.setattr(copies, "BLOCK", sizes[0])
    patch.setattr(copies, "STAYING", sizes[1])
    made = find_copies(rows, lambda left, right: similarity[np.ix_(left, right)], 0.8)
    patch.undo()
    expected = naive(similarity, 0.8)
    assert made.like_N.tolist() == expected
    for row, like in enumerate(expected):
        assert np.isnan(made.similarity_N[row]) if like < 0 else made.similarity_N[row] == similarity[row, like]


def test_no_chain_of_small_differences_is_followed():
    """Rows 0, 1, 2, 3 on a line, each near its neighbours only: 1 goes for 0, 2 stays, 3 goes for 2."""
    place = np.arange(4.0)
    made = find_copies(4, lambda a, b: 1.0 - np.abs(place[a][:, None] - place[b]) / 10, 0.9)
    assert made.like_N.tolist() == [-1, 0, -1, 2]


def test_equal_rows_are_copies_of_the_first():
    assert all_copies(3).like_N.tolist() == [-1, 0, 0]
    assert all_copies(1).like_N.tolist() == [-1]


SETS = st.lists(st.tuples(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 3))), min_size=1, max_size=12)


@given(SETS)
def test_words_are_alike_as_their_sets_are(rows):
    """The smaller resemblance of questions and of answers; two empty sets are the same."""
    sides = [[np.array(sorted(row[side]), dtype=np.uint64) for row in rows] for side in (0, 1)]

    def resemblance(a: set, b: set) -> float:
        return len(a & b) / len(a | b) if a | b else 1.0

    every = np.arange(len(rows))
    expected = [[min(resemblance(a[0], b[0]), resemblance(a[1], b[1])) for b in rows] for a in rows]
    np.testing.assert_array_equal(by_words(*sides)(every, every), expected)


@given(st.integers(1, 3), st.integers(0, 9999))
def test_images_are_alike_as_the_pair_that_differs_most(images, seed):
    """Bits of each pair of images in their order, where shades agree."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 16, (6, images)).astype(np.uint64)
    shades = np.repeat(rng.integers(0, 2, (6, images, 1)) * 200, 192, axis=2).astype(np.uint8)
    every = np.arange(6)
    made = by_images(hashes, shades, 0.0)(every, every)
    for a in range(6):
        for b in range(6):
            worst = max(int(hashes[a, i] ^ hashes[b, i]).bit_count() for i in range(images))
            agree = all((shades[a, i] == shades[b, i]).all() for i in range(images))
            assert made[a, b] == (1 - worst / HASH_BITS if agree else -1.0)
