"""Which rows tell of a test set: the same row, the same picture, a near one or a crop of it, or most of its words.

    test_row         the same plain text and the same pixels, or no image on either side
    test_image       an image with the pixels of a test image
    test_near_image  an image near a test image, or near a crop of it, or a crop of it (`pictures.py`)
    test_text        the row has at least `overlap` of the telling grams of a test row's question and answer
    telling          a gram that at most max(5, common * test rows) test rows have: a template ("Answer with a single
                     word", "Is there a ... in the image?") says nothing. A row of fewer than 4 tells nothing

The first reason that holds is the row's; of several test rows the most similar one is told, ties to the first key.
The share is of the test row's grams alone, so a long row that holds a short test row is found.

Cost: 32 popcounts for each pair of an image and a test image, one binary search a gram. Memory: the prints of all test
rows in each task, 330 bytes an image and 16 a gram: a test set is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.cleaning.alike import HASH_BITS, grams_of, hashes_of, shades_of
from raycurate.cleaning.pictures import PIXEL_BYTES, SHADE_BYTES, WINDOWS, differing_bits, shades_agree

TEST_ROW, TEST_IMAGE, TEST_NEAR_IMAGE, TEST_TEXT = "test_row", "test_image", "test_near_image", "test_text"
COMMON_ROWS, TELLING_GRAMS = 5, 4
WORD_ROWS, IMAGE_ROWS = 256, 512


@dataclass(frozen=True, slots=True)
class Found:
    """What a block of rows has of the test set.

    Attributes:
        reason_N: None for a row that has nothing of it.
        test_N: number of the test row; -1 for none, int64 [N].
        similarity_N: float64 [N]; NaN for none.
    """

    reason_N: list[str | None]
    test_N: NDArray[np.int64]
    similarity_N: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of some rows.

    Attributes:
        owner_I: number of the row.
        pixels_I: bytes.
        hash_IV: uint64.
        shade_IS: uint8.
    """

    owner_I: NDArray[np.int64]
    pixels_I: list[bytes]
    hash_IV: NDArray[np.uint64]
    shade_IS: NDArray[np.uint8]

    @staticmethod
    def of(prints: pa.Table) -> _Images:
        """The images of a table of prints, row after row."""
        count_N = np.array([len(value) // PIXEL_BYTES for value in prints["pixels"].to_pylist()], dtype=np.int64)
        pixels = b"".join(prints["pixels"].to_pylist())
        return _Images(
            np.repeat(np.arange(prints.num_rows), count_N),
            [pixels[at : at + PIXEL_BYTES] for at in range(0, len(pixels), PIXEL_BYTES)],
            hashes_of(prints["hashes"], 1).reshape(-1, len(WINDOWS)),
            shades_of(prints["shades"], 1).reshape(-1, SHADE_BYTES),
        )


class TestPrints:
    """The prints of a test set, ready to be looked up; its rows are sorted by key."""

    __test__ = False  # no test case, whatever pytest takes it for

    def __init__(self, prints: pa.Table, *, distance: int, overlap: float, common: float) -> None:
        """Hold the prints.

        Args:
            prints: of all test rows, sorted by key.
            distance: bits in which the hashes of near images differ at most.
            overlap: share of a test row's telling grams that is too much.
            common: share of the test rows above which a gram is a template's.
        """
        self._distance, self._overlap = distance, overlap
        self._row_of = _first_places(_whole(prints))
        self._images = _Images.of(prints)
        self._row_of_pixels = _first_places(self._images.pixels_I)
        grams = [np.union1d(q, a) for q, a in zip(*(grams_of(prints[n]) for n in ("asked", "answered")), strict=True)]
        limit = max(COMMON_ROWS, int(common * prints.num_rows))
        self._gram_G, self._start_G, self._owner_P, self._telling_T = _index(grams, limit)

    def find(self, prints: pa.Table) -> Found:
        """What each row of a block has of the test set."""
        rows = prints.num_rows
        found = Found([None] * rows, np.full(rows, -1, dtype=np.int64), np.full(rows, np.nan))
        for row, whole in enumerate(_whole(prints)):
            if whole in self._row_of:
                _note(found, row, TEST_ROW, self._row_of[whole], 1.0)
        self._find_images(found, prints)
        self._find_words(found, prints)
        return found

    def _find_images(self, found: Found, prints: pa.Table) -> None:
        images = _Images.of(prints)
        for owner, pixels in zip(images.owner_I.tolist(), images.pixels_I, strict=True):
            at = self._row_of_pixels.get(pixels)
            if at is not None:
                _note(found, owner, TEST_IMAGE, int(self._images.owner_I[at]), 1.0)
        open_I = np.array([found.reason_N[owner] is None for owner in images.owner_I.tolist()], dtype=bool)
        places = np.flatnonzero(open_I)
        best: dict[int, tuple[float, int]] = {}
        for start in range(0, places.size, IMAGE_ROWS):
            block = places[start : start + IMAGE_ROWS]
            similarity_B, test_B = self._nearest_image(images.hash_IV[block], images.shade_IS[block])
            for image, near, test in zip(block.tolist(), similarity_B.tolist(), test_B.tolist(), strict=True):
                row = int(images.owner_I[image])
                if test >= 0 and (row not in best or near > best[row][0]):
                    best[row] = (near, int(self._images.owner_I[test]))
        for row, (near, test) in best.items():
            _note(found, row, TEST_NEAR_IMAGE, test, near)

    def _nearest_image(
        self, hash_BV: NDArray[np.uint64], shade_BS: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The nearest test image of each image and its similarity; -1 where none is near."""
        ours = self._images
        if not ours.pixels_I:
            return np.zeros(len(hash_BV)), np.full(len(hash_BV), -1)
        bits_BT = differing_bits(hash_BV[:, 0], ours.hash_IV[:, 0])
        for window in range(1, len(WINDOWS)):
            np.minimum(bits_BT, differing_bits(hash_BV[:, 0], ours.hash_IV[:, window]), out=bits_BT)
            np.minimum(bits_BT, differing_bits(hash_BV[:, window], ours.hash_IV[:, 0]), out=bits_BT)
        near_B = np.flatnonzero((bits_BT <= self._distance).any(axis=1))
        far = HASH_BITS + 1
        bits_BT = bits_BT.astype(np.int64)
        bits_BT[near_B] = np.where(shades_agree(shade_BS[near_B], ours.shade_IS), bits_BT[near_B], far)
        test_B = bits_BT.argmin(axis=1)
        least_B = bits_BT[np.arange(len(test_B)), test_B]
        return 1.0 - least_B / HASH_BITS, np.where(least_B <= self._distance, test_B, -1)

    def _find_words(self, found: Found, prints: pa.Table) -> None:
        open_N = np.flatnonzero([reason is None for reason in found.reason_N])
        for start in range(0, open_N.size, WORD_ROWS):
            block = open_N[start : start + WORD_ROWS]
            rows = prints.take(pa.array(block))
            asked, answered = grams_of(rows["asked"]), grams_of(rows["answered"])
            test_B, overlap_B = self._most_words([np.union1d(q, a) for q, a in zip(asked, answered, strict=True)])
            for row, test, overlap in zip(block.tolist(), test_B.tolist(), overlap_B.tolist(), strict=True):
                if overlap >= self._overlap:
                    _note(found, row, TEST_TEXT, test, overlap)

    def _most_words(self, grams_B: Sequence[NDArray[np.uint64]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The test row that has the largest part of its telling grams in each row, and that part."""
        test_B, overlap_B = np.full(len(grams_B), -1, dtype=np.int64), np.zeros(len(grams_B))
        if not self._gram_G.size:
            return test_B, overlap_B
        row_H = np.repeat(np.arange(len(grams_B)), [len(each) for each in grams_B])
        gram_H = np.concatenate([np.zeros(0, dtype=np.uint64), *grams_B])
        at_H = np.minimum(np.searchsorted(self._gram_G, gram_H), self._gram_G.size - 1)
        known = np.flatnonzero(self._gram_G[at_H] == gram_H)
        row_H, at_H = row_H[known], at_H[known]
        length_H = self._start_G[at_H + 1] - self._start_G[at_H]
        first_H = np.repeat(self._start_G[at_H] - (np.cumsum(length_H) - length_H), length_H)
        owner_P = self._owner_P[first_H + np.arange(int(length_H.sum()))]
        code_P = np.repeat(row_H, length_H) * len(self._telling_T) + owner_P
        code_C, shared_C = np.unique(code_P, return_counts=True)
        row_C, owner_C = np.divmod(code_C, len(self._telling_T))
        share_C = shared_C / self._telling_T[owner_C]
        best = np.lexsort((owner_C, -share_C, row_C))
        rows, first = np.unique(row_C[best], return_index=True)
        test_B[rows], overlap_B[rows] = owner_C[best[first]], share_C[best[first]]
        return test_B, overlap_B


def _index(
    grams_T: Sequence[NDArray[np.uint64]], limit: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The telling grams with the rows that have them, and how many each row has.

    Returns:
        Grams, ascending, [G]; where the rows of each begin, [G + 1]; those rows, [P]; telling grams of each row, [T].
    """
    owner_P = np.repeat(np.arange(len(grams_T)), [len(each) for each in grams_T])
    gram_P = np.concatenate([np.zeros(0, dtype=np.uint64), *grams_T])
    _, place_P, count_G = np.unique(gram_P, return_inverse=True, return_counts=True)
    telling_P = count_G[place_P] <= limit
    telling_T = np.bincount(owner_P[telling_P], minlength=len(grams_T))
    held_P = telling_P & (telling_T[owner_P] >= TELLING_GRAMS)
    gram_P, owner_P = gram_P[held_P], owner_P[held_P]
    order = np.lexsort((owner_P, gram_P))
    gram_G, start_G = np.unique(gram_P[order], return_index=True)
    return gram_G, np.append(start_G, order.size).astype(np.int64), owner_P[order], telling_T


def _whole(prints: pa.Table) -> list[bytes]:
    """What rows that are the same have in common: text and pixels."""
    return [t + p for t, p in zip(prints["text"].to_pylist(), prints["pixels"].to_pylist(), strict=True)]


def _first_places(values: Sequence[bytes]) -> dict[bytes, int]:
    return {value: place for place, value in reversed(list(enumerate(values)))}


def _note(found: Found, row: int, reason: str, test: int, similarity: float) -> None:
    """Keep the first reason of a row."""
    if found.reason_N[row] is None:
        found.reason_N[row], found.test_N[row], found.similarity_N[row] = reason, test, similarity
