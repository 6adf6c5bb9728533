"""Empty clusters: split the largest ones.

Each empty cluster takes half of the cluster that is the largest at that moment (ties: the lowest id). The two get
centroids c * (1 +- s / 1024), normalised, with a sign vector s drawn from the empty cluster's id: symmetric about the
old centroid, different for every split, the same on any cluster. faiss splits likewise, with alternating signs and a
randomly chosen donor.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import torch

from raycurate.clustering.exactness import unit_centroids

STEP = 1.0 / 1024

Split = tuple[int, int]


def plan_splits(sizes: Sequence[int]) -> list[Split]:
    """Pairs (empty cluster, donor) in the order in which they are to be applied. Clusters of one row are not split."""
    heap = [(-size, cluster) for cluster, size in enumerate(sizes) if size > 1]
    heapq.heapify(heap)
    splits: list[Split] = []
    for empty in (cluster for cluster, size in enumerate(sizes) if size == 0):
        if not heap:
            break
        negative, donor = heapq.heappop(heap)
        splits.append((empty, donor))
        half = -negative // 2
        for cluster, size in ((donor, -negative - half), (empty, half)):
            if size > 1:
                heapq.heappush(heap, (-size, cluster))
    return splits


def apply_splits(centroids_KD: torch.Tensor, splits: Sequence[Split]) -> None:
    """Give each empty cluster and its donor their new centroids, in place, one split after the other."""
    for empty, donor in splits:
        generator = np.random.Generator(np.random.Philox(key=empty))
        signs = generator.integers(0, 2, centroids_KD.shape[1]) * 2.0 - 1.0
        shift_D = torch.from_numpy(signs * STEP).to(centroids_KD.device)
        base_D = centroids_KD[donor].double()
        pair_2D = torch.stack([base_D * (1 + shift_D), base_D * (1 - shift_D)])
        pair_2D = unit_centroids(pair_2D, centroids_KD[[donor, empty]])
        centroids_KD[donor], centroids_KD[empty] = pair_2D[0], pair_2D[1]
