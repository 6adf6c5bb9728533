"""Clusters that are too large for one kernel: split by key hash, ranked chunk by chunk, and interleaved.

A row's chunk is a function of its key and of the size of its cluster, so a stage can route rows to (cluster,
chunk) groups without holding a cluster, and the split is the same on any cluster of machines. Chunks are
random samples of the cluster: each is ranked on its own, then the first picks of all chunks come first, then
the second picks, and so on. The rank in the whole cluster follows from the chunk sizes alone:

    rank = sum_c min(n_c, r) + |{c < chunk : n_c > r}|      r = rank within the chunk

Cost: one hash a row. Limits: the greedy order across chunks is approximate (each chunk does not see the
others' picks); within a chunk it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.keys import Keys, key_hashes

# Chunks are filled to 95% on average: hash-made sizes vary by about sqrt(n).
CHUNK_FILL = 0.95


def num_chunks(size: int, max_rows: int) -> int:
    """Return in how many chunks a cluster of `size` rows is ranked: 1 if it fits in `max_rows`."""
    return 1 if size <= max_rows else math.ceil(size / (CHUNK_FILL * max_rows))


def chunk_of(keys_N: Keys, count: int) -> NDArray[np.int64]:
    """Return the chunk, 0 .. count - 1, of each key."""
    if count == 1:
        return np.zeros(keys_N.shape[0], dtype=np.int64)
    high_N = key_hashes(keys_N, seed=0, purpose="cluster chunk") >> np.uint64(32)
    return ((high_N * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def interleaved_ranks(rank_N: NDArray[np.int64], chunk: int, chunk_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return the ranks in the whole cluster, [N], of rows of one chunk from their ranks in that chunk."""
    sizes_C = np.asarray(chunk_sizes, dtype=np.int64)
    result_N = np.zeros_like(rank_N)
    for other, size in enumerate(sizes_C.tolist()):
        result_N += np.minimum(size, rank_N)
        if other < chunk:
            result_N += size > rank_N
    return result_N
