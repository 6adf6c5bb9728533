"""Sums and centroids among the processes of one k-means, by collectives of ``torch.distributed``.

Every process owns a range of clusters. An iteration is

    S_k <- sum over processes of their S_k        (reduce-scatter, float64, to the owner of k)
    c_k <- normalise(S_k)                         (at the owner)
    all processes get c_k                         (all-gather, float32)

for the clusters that changed: those that a row entered or left in any process (an all-reduce of one byte a cluster),
and those whose centroids were split. All others have the sums and centroids that they had. Sums are exact, so the
order in which a library adds them cannot change a bit (see ``exactness``).

Traffic per iteration and process for C changed clusters: 8 C D (W-1)/W bytes out, 4 C D (W-1)/W in, and K bytes.
Memory: 8 K D / W bytes of sums, and two buffers of `CHUNK_BYTES`. Gloo between CPUs, NCCL between GPUs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from raycurate.clustering.exactness import row_dots, unit_centroids
from raycurate.clustering.repair import Split
from raycurate.clustering.sums import ClusterSums

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
JOIN_SECONDS, CALL_SECONDS = 120.0, 1800.0

Ranges = Sequence[tuple[int, int]]


class PeerLost(Exception):
    """A collective failed: another process is gone, or cannot be reached."""


def open_store(address: str, size: int) -> dist.TCPStore:
    """The meeting place of ``size`` processes, at a free port of this machine; it lives as long as the object."""
    return dist.TCPStore(address, 0, size, is_master=True, wait_for_workers=False)


def connect_store(address: str, port: int, size: int) -> dist.TCPStore:
    """The meeting place that another process opened; `PeerLost` where it cannot be reached."""
    with _noticing_losses():
        return dist.TCPStore(address, port, size, is_master=False, timeout=timedelta(seconds=JOIN_SECONDS))


class Exchange:
    """One process of the group; every method is called by all of them, in the same order."""

    def __init__(self, store: dist.Store, number: int, ranges: Ranges, device: torch.device) -> None:
        """Meet the others at ``store``.

        Raises:
            PeerLost: they did not all come.
        """
        self.number, self.ranges, self.device = number, ranges, device
        self.sums_RD: torch.Tensor | None = None
        store.set_timeout(timedelta(seconds=JOIN_SECONDS))
        backend = "nccl" if device.type == "cuda" else "gloo"
        with _noticing_losses():
            dist.init_process_group(
                backend, store=store, rank=number, world_size=len(ranges), timeout=timedelta(seconds=CALL_SECONDS)
            )
            dist.all_reduce(torch.zeros(1, device=device))  # NCCL connects at the first call

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()

    def next_centroids(
        self, totals: ClusterSums, centroids_KD: torch.Tensor, splits: Sequence[Split]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From the sums of all: similarity sums of this range, float64 [R], and the next centroids, [K, D].

        ``totals`` are this process's sums by ``centroids_KD``, which came from the last call but for ``splits``.
        """
        low, high = self.ranges[self.number]
        dim = totals.sums_KD.shape[1]
        changed = self._changed(totals, splits)
        if self.sums_RD is None:
            self.sums_RD = torch.zeros((high - low, dim), dtype=torch.float64, device=self.device)
        next_KD = centroids_KD.clone()
        for parts in self._chunks(changed, dim):
            self._pass_on(parts, totals.sums_KD, self.sums_RD, next_KD)
        totals.touched_K.zero_()
        return row_dots(self.sums_RD, centroids_KD[low:high]), next_KD

    def _changed(self, totals: ClusterSums, splits: Sequence[Split]) -> list[torch.Tensor]:
        """The clusters to send, int64, by their owner; all of them where a process has nothing from before."""
        changed_K = totals.touched_K.to(torch.uint8)
        for pair in splits:
            changed_K[list(pair)] = 1
        if self.sums_RD is None:
            changed_K.fill_(1)
        with _noticing_losses():
            dist.all_reduce(changed_K, dist.ReduceOp.MAX)
        return [low + changed_K[low:high].nonzero().ravel() for low, high in self.ranges]

    def _chunks(self, changed: Sequence[torch.Tensor], dim: int) -> Iterator[list[torch.Tensor]]:
        """The changed clusters of every owner, by as many as the buffers hold."""
        size = max(1, CHUNK_BYTES[self.device.type] // (8 * dim * len(changed)))
        for start in range(0, max(len(part) for part in changed), size):
            yield [part[start : start + size] for part in changed]

    def _pass_on(
        self, parts: Sequence[torch.Tensor], local_KD: torch.Tensor, sums_RD: torch.Tensor, next_KD: torch.Tensor
    ) -> None:
        """One chunk: sums to their owners, and the centroids back; shorter parts are padded with zeros."""
        width, dim, own = max(len(part) for part in parts), local_KD.shape[1], parts[self.number]
        out_WD = torch.zeros((len(parts) * width, dim), dtype=torch.float64, device=self.device)
        for owner, part in enumerate(parts):
            out_WD[owner * width : owner * width + len(part)] = local_KD[part]
        in_CD = torch.empty((width, dim), dtype=torch.float64, device=self.device)
        with _noticing_losses():
            dist.reduce_scatter_tensor(in_CD, out_WD)
        low = self.ranges[self.number][0]
        sums_RD[own - low] = in_CD[: len(own)]
        made_CD = torch.zeros((width, dim), device=self.device)
        made_CD[: len(own)] = unit_centroids(in_CD[: len(own)], next_KD[own])
        all_WD = torch.empty((len(parts) * width, dim), device=self.device)
        with _noticing_losses():
            dist.all_gather_into_tensor(all_WD, made_CD)
        for owner, part in enumerate(parts):
            next_KD[part] = all_WD[owner * width : owner * width + len(part)]


@contextlib.contextmanager
def _noticing_losses() -> Iterator[None]:
    """Errors of torch.distributed as `PeerLost`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # names of the collectives that torch will change
            yield
    except RuntimeError as error:  # NCCL's are of a kind of their own, gloo's are not
        raise PeerLost(str(error).splitlines()[0]) from error
