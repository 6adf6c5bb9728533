"""What a k-means worker holds beside its rows, and how many of the rows fit into memory with it.

    needed = K D (8 + 4 + 4 + 4) + K D (8 + 4) / W + blocks   bytes

for W workers: sums, centroids, those of the last step and the screen's vectors; a range of the sums of all workers and
its next centroids; and the blocks of scores, pairs and converted rows. Rows take 2 D bytes each. On a GPU they may have
what is left of `DEVICE_SHARE` of the free memory; on a CPU of `HOST_SHARE` of it, as what is left there serves the page
cache, the object store and the others. Rows that do not fit lie in a scratch file (`local_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raycurate.clustering.partition import BLOCK_BYTES
from raycurate.clustering.screening import PAIR_BYTES, SCORE_BYTES
from raycurate.device import free_memory
from raycurate.errors import UserError

DEVICE_SHARE, HOST_SHARE = 0.9, 0.4


@dataclass(frozen=True, slots=True)
class Footprint:
    """The sizes that decide: clusters, dimensions, workers in all, and those that share a device's memory."""

    clusters: int
    dim: int
    workers: int = 1
    sharing: int = 1

    def needed(self, kind: str) -> int:
        """Bytes beside the rows on a device of this kind ("cpu" or "cuda")."""
        blocks = SCORE_BYTES[kind] + 3 * PAIR_BYTES[kind] + 2 * BLOCK_BYTES[kind]
        return self.clusters * self.dim * (20 + 12 // self.workers) + blocks


def cache_bytes(asked_gb: float | None, rows: int, footprint: Footprint, device: torch.device) -> int:
    """Bytes of rows to keep in the device's memory: as asked, else what is free; never more than there are.

    Raises:
        UserError: the memory that is free does not hold what is needed, or what is asked beside it.
    """
    wanted = 2 * rows * footprint.dim
    needed, free = footprint.needed(device.type), free_memory(device) // footprint.sharing
    if needed > free:
        raise UserError(_too_little(f"{needed / 2**30:.2f} GiB", free, footprint, device, "use more memory"))
    if asked_gb is None:
        share = DEVICE_SHARE if device.type == "cuda" else HOST_SHARE
        return min(wanted, max(0, int(share * free) - needed))
    kept = min(wanted, int(asked_gb * 2**30))
    if needed + kept > free:
        rows_gib = f"the {kept / 2**30:.2f} GiB of rows that cluster.cache_gb={asked_gb:g} keeps"
        what = f"{needed / 2**30:.2f} GiB, with {rows_gib},"
        raise UserError(_too_little(what, free, footprint, device, "leave cluster.cache_gb out"))
    return kept


def _too_little(what: str, free: int, footprint: Footprint, device: torch.device, fix: str) -> str:
    place = "GPU memory" if device.type == "cuda" else "memory"
    return (
        f"{footprint.clusters} clusters of {footprint.dim} dimensions take {what} in a k-means worker, more than its "
        f"{free / 2**30:.2f} GiB of free {place} ({footprint.sharing} share it). To make it fit, {fix}, set "
        "cluster.project to fewer dimensions, or set --clusters or cluster.workers lower."
    )
