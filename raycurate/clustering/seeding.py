"""Which rows are the first centroids: chosen by seeded hashes of their keys, so that shards and order do not matter.

``random``: the K rows with the smallest hashes, passing over rows whose vector was taken already. A hash is a uniform
draw, so this is faiss's "K distinct random rows". Each holder of rows offers its smallest hashes only; the driver
merges lists of about 2K (hash, digest) pairs.

``kmeans++``: D^2 sampling (Arthur and Vassilvitskii, 2007; for unit vectors D^2 = 2 - 2 cos) on a bounded sample, the
rows with the smallest hashes. The draw of step t takes the row with the smallest Exp(1) variate / weight, whose uniform
is a hash of (row hash, t). Weights come from exact dot products. Cost: 2 K M D float64 FLOP for M sampled rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raycurate.clustering.exactness import wide_blocks

Hashes = NDArray[np.uint64]
SEED_SAMPLE_FACTOR = 4


def key_hashes(keys: Sequence[str], seed: int, purpose: str) -> Hashes:
    """A uniform 64-bit hash of each key, [N]; ``purpose`` separates independent draws. About 1 us a key."""
    start = hashlib.blake2b(digest_size=8, key=str(seed).encode()[:64], person=purpose.encode()[:16])
    digests = bytearray()
    for key in keys:
        state = start.copy()
        state.update(key.encode())
        digests += state.digest()
    return np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64)


def smallest(hashes_N: Hashes, count: int) -> NDArray[np.int64]:
    """Positions of the ``count`` smallest hashes, in ascending order of the hash."""
    if count < len(hashes_N):
        candidates = np.argpartition(hashes_N, count)[:count]
    else:
        candidates = np.arange(len(hashes_N))
    return candidates[np.argsort(hashes_N[candidates], kind="stable")].astype(np.int64)


def row_digests(rows_ND: NDArray[np.float16]) -> Hashes:
    """A 64-bit digest of each row's bytes: equal rows have equal digests."""
    joined = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows_ND)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def distinct_first(digests_N: Hashes, count: int) -> NDArray[np.int64]:
    """The first ``count`` positions with distinct digests, in order; filled up with repeats where there are too few."""
    _, first = np.unique(digests_N, return_index=True)
    first.sort()
    if len(first) < count:
        repeats = np.setdiff1d(np.arange(len(digests_N)), first)
        first = np.concatenate([first, repeats])
    return first[:count].astype(np.int64)


def spread_out(rows_MD: torch.Tensor, hashes_M: Hashes, num_clusters: int) -> list[int]:
    """k-means++ picks among sampled rows: ``num_clusters`` positions, the first the one with the smallest hash."""
    picks = [int(np.argmin(hashes_M))]
    gap_M = np.full(len(hashes_M), 2.0)
    for step in range(1, num_clusters):
        gap_M = np.minimum(gap_M, 1.0 - exact_similarities(rows_MD, rows_MD[picks[-1]]))
        gap_M[picks] = 0.0
        weight_M = np.maximum(gap_M, 0.0)
        if not weight_M.any():
            taken = set(picks)
            order = [int(i) for i in np.argsort(hashes_M, kind="stable") if int(i) not in taken]
            return picks + order[: num_clusters - step]
        with np.errstate(divide="ignore"):
            picks.append(int(np.argmin(-np.log(_uniform(hashes_M, step)) / weight_M)))
    return picks


def exact_similarities(rows_MD: torch.Tensor, row_D: torch.Tensor) -> NDArray[np.float64]:
    """Inner products of float16 unit rows with one of them: products are multiples of 2^-48, so nothing rounds."""
    out_M = torch.empty(rows_MD.shape[0], dtype=torch.float64, device=rows_MD.device)
    for rows in wide_blocks(rows_MD):
        out_M[rows] = rows_MD[rows].double() @ row_D.double()
    return out_M.cpu().numpy()


def _uniform(hashes_M: Hashes, step: int) -> NDArray[np.float64]:
    """A fresh uniform in (0, 1) per row and step: splitmix64 of the hash and the step."""
    with np.errstate(over="ignore"):
        mixed = hashes_M + np.uint64(step) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
