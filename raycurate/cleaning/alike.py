"""How like the rows of one group are, from their prints: by their images, or by their words.

    images  1 - d / 64, d = differing bits of the hashes of two images, of the pair that differs most; -1 where shades
            do not agree. Rows of the group have the same number of images, compared in their order.
    words   the smaller one of the resemblances of the questions and of the answers

Both are exact for any blocks. Cost: a popcount and, for tiles with near hashes, 384 FLOP a pair; for words a product of
sparse 0/1 matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.cleaning.copies import Rows, Similarity
from raycurate.cleaning.pictures import SHADE_BYTES, WINDOWS, differing_bits, shades_agree

HASH_BITS = 64


def hashes_of(column: pa.ChunkedArray, images: int) -> NDArray[np.uint64]:
    """The hashes of rows that all have so many images, [N, images, V]."""
    data = b"".join(column.to_pylist())
    return np.frombuffer(data, dtype="<u8").reshape(-1, images, len(WINDOWS)).astype(np.uint64)


def shades_of(column: pa.ChunkedArray, images: int) -> NDArray[np.uint8]:
    """Their shades, [N, images, S]."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8).reshape(-1, images, SHADE_BYTES)


def grams_of(column: pa.ChunkedArray) -> list[NDArray[np.uint64]]:
    """The grams of each row."""
    return [np.frombuffer(value, dtype="<u8").astype(np.uint64) for value in column.to_pylist()]


def by_images(hash_NI: NDArray[np.uint64], shade_NIS: NDArray[np.uint8], bound: float) -> Similarity:
    """The similarity of rows by their whole images; below `bound` it need not be right."""

    def similarity(left: Rows, right: Rows) -> NDArray[np.float64]:
        worst = np.ones((left.size, right.size))
        for image in range(hash_NI.shape[1]):
            bits = differing_bits(hash_NI[left, image], hash_NI[right, image])
            np.minimum(worst, 1.0 - bits / HASH_BITS, out=worst)
            if (worst >= bound).any():
                agree = shades_agree(shade_NIS[left, image], shade_NIS[right, image])
                worst[~agree] = -1.0
        return worst

    return similarity


def by_words(asked_N: Sequence[NDArray[np.uint64]], answered_N: Sequence[NDArray[np.uint64]]) -> Similarity:
    """The similarity of rows by their questions and answers."""
    sides = [_incidence(asked_N), _incidence(answered_N)]

    def similarity(left: Rows, right: Rows) -> NDArray[np.float64]:
        worst = np.ones((left.size, right.size))
        for matrix, size_N in sides:
            both = (matrix[left] @ matrix[right].T).toarray().astype(np.float64)
            union = size_N[left][:, None] + size_N[right][None, :] - both
            np.minimum(worst, np.divide(both, union, out=np.ones_like(both), where=union > 0), out=worst)
        return worst

    return similarity


def _incidence(grams_N: Sequence[NDArray[np.uint64]]) -> tuple[Any, NDArray[np.int64]]:
    """Rows x grams, 1 where a row has a gram, and the grams of each row."""
    from scipy.sparse import csr_array

    size_N = np.array([len(each) for each in grams_N], dtype=np.int64)
    joined = np.concatenate([np.zeros(0, dtype=np.uint64), *grams_N])
    names, place = np.unique(joined, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(size_N)])
    shape = (len(grams_N), max(1, names.size))
    return csr_array((np.ones(joined.size, dtype=np.int32), place, starts), shape=shape), size_N
