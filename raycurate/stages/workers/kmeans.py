"""The actor of the ``cluster`` stage: one share of the rows, and one range of the clusters.

A worker is two things. It holds a fixed list of feature parts, assigns their rows and sums them per cluster (*step*);
and it owns a range of clusters, for which it adds the sums of all workers and normalises (*reduce*). So an iteration is
a reduce-scatter of sums and an all-gather of centroids, and the driver sees sizes and per-cluster similarity sums only.
Workers do both by collectives among themselves (*iterate*, see `clustering.exchange`) until one of them is lost, and
from then on through Ray's object store (*step* and *reduce*), where each can be replaced: the bits are the same.
Methods whose lists travel to several workers return one object per worker.

Traffic per iteration and worker: 8 K D bytes of sums out, 4 K D bytes of centroids in, by collectives for the clusters
that changed only; none with one worker.
Memory per worker: K D (8 + 4 + 4 + 4) bytes, its rows as far as they fit, one feature part, and 16
bytes for each row (`clustering.memory`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from raycurate.clustering.exactness import on_grid, row_dots, unit_centroids
from raycurate.clustering.exchange import Exchange, connect_store, open_store
from raycurate.clustering.guards import check_rows, near_twins
from raycurate.clustering.local_rows import LocalRows
from raycurate.clustering.memory import Footprint, cache_bytes
from raycurate.clustering.partition import Partition
from raycurate.clustering.projection import Projection
from raycurate.clustering.repair import Split, apply_splits
from raycurate.clustering.screening import Screen
from raycurate.clustering.seeding import Hashes, key_hashes, row_digests, smallest, spread_out
from raycurate.clustering.sums import ClusterSums
from raycurate.config import ClusterConfig
from raycurate.device import use_device
from raycurate.features.rows import features_column, features_of_table, with_row_facts
from raycurate.ray_session import this_node
from raycurate.run.manifest import ShardRecord
from raycurate.run.store import Noun

Piece = NDArray[np.float32] | None
INIT_PURPOSE, SAMPLE_PURPOSE = "kmeans-init", "kmeans-sample"


@dataclass(frozen=True, slots=True)
class KMeansJob:
    """What every worker knows."""

    features: Noun
    clusters: Noun
    config: ClusterConfig
    dim: int
    ranges: tuple[tuple[int, int], ...]
    threads: int
    on_gpu: bool
    sharing: int

    @property
    def linkable(self) -> bool:
        """Whether workers can join hands: there are several, and NCCL has no two on one GPU."""
        return len(self.ranges) > 1 and not (self.on_gpu and self.sharing > 1)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Rows per cluster in this share, and how many moved (None where earlier labels were lost)."""

    sizes: list[int]
    moved: int | None


class KMeansWorker:
    """See the module. Every method can be repeated: state moves on only with the iteration's number."""

    def __init__(self, job: KMeansJob, number: int, shards: tuple[int, ...]) -> None:
        self.job, self.number, self.shards = job, number, shards
        self.device = torch.device("cuda" if job.on_gpu else "cpu")
        torch.set_num_threads(job.threads)
        self.work_dim = job.config.project or job.dim
        self.projection: Projection | None = None
        self.partition: Partition | None = None
        self.hashes_N: Hashes = np.zeros(0, dtype=np.uint64)
        self.centroids_KD = torch.zeros((0, self.work_dim))
        self.piece_RD = torch.zeros((0, self.work_dim))
        self.last: tuple[int, StepReport] | None = None
        self.store: Any = None
        self.exchange: Exchange | None = None
        self.next_KD: torch.Tensor | None = None
        self.started = False

    def process_id(self) -> int:
        """The process, as a sign of life; `UserError` where it lacks the GPU that it was promised."""
        use_device(self.job.on_gpu, "cluster")  # not in the constructor: there it would look like a lost worker
        return os.getpid()

    # rows

    def offer_hashes(self, purpose: str, count: int) -> Hashes:
        """The ``count`` smallest hashes of this share's keys, ascending."""
        kept = np.zeros(0, dtype=np.uint64)
        for shard in self.shards:
            keys = self.job.features.read_part(shard, ["key"])["key"].to_pylist()
            kept = np.concatenate([kept, key_hashes(keys, self.job.config.seed, purpose)])
            kept = np.sort(kept)[:count]
        return kept

    def load(self, threshold: int | None) -> int:
        """Read, check and keep the rows (those with a sample hash up to ``threshold``); how many there are."""
        if self.partition is not None:
            return self.partition.source.num_rows
        config = self.job.config
        records = self.job.features.records()
        capacity = sum(records[shard].rows_out for shard in self.shards)
        source = LocalRows(
            capacity,
            self.work_dim,
            cache_bytes=cache_bytes(config.cache_gb, capacity, self._footprint(), self.device),
            device=self.device,
            folder=config.scratch,
        )
        hashes = [self._load_part(source, shard, threshold) for shard in self.shards]
        self.hashes_N = np.concatenate([np.zeros(0, dtype=np.uint64), *hashes])
        self.partition = Partition(source, config.clusters, self.device, config.block_rows)
        return source.num_rows

    def _footprint(self) -> Footprint:
        return Footprint(self.job.config.clusters, self.work_dim, len(self.job.ranges), self.job.sharing)

    def _load_part(self, source: LocalRows, shard: int, threshold: int | None) -> Hashes:
        keys, rows_ND = self._read_rows(shard)
        seed = self.job.config.seed
        if threshold is not None:
            kept = np.flatnonzero(key_hashes(keys, seed, SAMPLE_PURPOSE) <= np.uint64(threshold))
            keys, rows_ND = [keys[i] for i in kept], rows_ND[kept]
        for start in range(0, len(keys), self.job.config.block_rows):
            block = slice(start, start + self.job.config.block_rows)
            source.append(*self._checked(rows_ND[block], keys[block], shard))
        return key_hashes(keys, seed, INIT_PURPOSE)

    def _read_rows(self, shard: int) -> tuple[list[str], NDArray[np.float16]]:
        table = self.job.features.read_part(shard, ["key", "features"])
        return table["key"].to_pylist(), features_of_table(table).copy()

    def _checked(self, rows_ND: NDArray[np.float16], keys: Sequence[str], shard: int) -> tuple[torch.Tensor, float]:
        """Rows as they are clustered, on the device and checked there, with a bound on their entries."""
        block_ND = torch.from_numpy(rows_ND).to(self.device)
        largest = check_rows(block_ND, keys, self._part_name(shard))
        if self.job.config.project is None:
            return block_ND, largest
        if self.projection is None:
            self.projection = Projection(self.job.dim, self.job.config.project, self.job.config.seed, self.device)
        block_ND = self.projection(block_ND)
        return block_ND, check_rows(block_ND, keys, self._part_name(shard))

    def _part_name(self, shard: int) -> str:
        return f"{self.job.features.noun}/{self.job.features.label}/part-{shard:05d}.parquet"

    # the first centroids

    def offer_digests(self, count: int) -> tuple[Hashes, Hashes]:
        """Hashes and vector digests of the ``count`` rows with the smallest hashes."""
        picks = smallest(self.hashes_N, count)
        return self.hashes_N[picks], row_digests(self._source.take(picks).cpu().numpy())

    def rows_by_hash(self, hashes_M: Hashes, cuts: Sequence[tuple[int, int]]) -> object:
        """For each range of positions in ``hashes_M``: the positions found here and their rows."""
        order = np.argsort(self.hashes_N, kind="stable")
        at = np.searchsorted(self.hashes_N, hashes_M, sorter=order)
        rows = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(hashes_M), dtype=np.int64)
        found = self.hashes_N[rows] == hashes_M if len(order) else np.zeros(len(hashes_M), dtype=bool)
        parts: list[object] = []
        for low, high in cuts:
            positions = low + np.flatnonzero(found[low:high])
            parts.append((positions, self._source.take(rows[positions].astype(np.int64)).cpu().numpy()))
        return parts if len(parts) > 1 else parts[0]

    def spread(self, hashes_M: Hashes, *parts: tuple[NDArray[np.int64], NDArray[np.float16]]) -> list[int]:
        """k-means++ picks among the sampled rows that all workers sent."""
        rows_MD = torch.from_numpy(_gathered(parts, 0, len(hashes_M), self.work_dim)).to(self.device)
        return spread_out(rows_MD, hashes_M, self.job.config.clusters)

    def seed_piece(self, *parts: tuple[NDArray[np.int64], NDArray[np.float16]]) -> Piece:
        """This worker's range of first centroids from the rows that all workers sent."""
        low, high = self.job.ranges[self.number]
        rows_RD = torch.from_numpy(_gathered(parts, low, high, self.work_dim)).to(self.device)
        self.piece_RD = unit_centroids(rows_RD, on_grid(rows_RD.double()))
        self.hashes_N = self.hashes_N[:0]
        return self._sendable(self.piece_RD)

    # one iteration

    def open_store(self) -> tuple[str, int]:
        """Where the workers meet for their collectives."""
        address = ray.util.get_node_ip_address()
        self.store = open_store(address, len(self.job.ranges))
        return address, self.store.port

    def join(self, address: str, port: int) -> None:
        """Meet the others; `PeerLost` where that fails."""
        store = self.store or connect_store(address, port, len(self.job.ranges))
        self.exchange = Exchange(store, self.number, self.job.ranges, self.device)

    def iterate(
        self, iteration: int, splits: Sequence[Split], *pieces: Piece
    ) -> tuple[StepReport, NDArray[np.float64]]:
        """One iteration with the others: the report, and the similarity sums of this worker's range of clusters."""
        assert self.exchange is not None, "join() comes first"
        if self.next_KD is not None:
            self.centroids_KD, self.next_KD = self.next_KD, None
            apply_splits(self.centroids_KD, splits)
        report = self._step(iteration, splits, pieces)
        dots_R, self.next_KD = self.exchange.next_centroids(self._partition.totals, self.centroids_KD, splits)
        low, high = self.job.ranges[self.number]
        self.piece_RD = self.next_KD[low:high]
        return report, dots_R.cpu().numpy()

    def step(self, iteration: int, splits: Sequence[Split], *pieces: Piece) -> list[object]:
        """Assign all rows to the centroids; the report, then the sums of each worker's range of clusters."""
        report = self._step(iteration, splits, pieces)
        sums_KD = self._partition.totals.sums_KD
        alone = len(self.job.ranges) == 1
        parts = [None if alone else sums_KD[low:high].cpu().numpy() for low, high in self.job.ranges]
        return [report, *parts]

    def _step(self, iteration: int, splits: Sequence[Split], pieces: Sequence[Piece]) -> StepReport:
        if self.last is None or self.last[0] != iteration:
            self._take_centroids(splits, pieces)
            moved = self._partition.step(self._screen())
            known = self.started or iteration == 0
            report = StepReport(self._partition.totals.sizes_K.tolist(), moved if known else None)
            self.last = (iteration, report)
        self.started = True
        return self.last[1]

    def reduce(self, *parts: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], Piece]:
        """Add the sums of this worker's range: similarity sums per cluster, and the next centroids."""
        low, high = self.job.ranges[self.number]
        sums_RD = self._partition.totals.sums_KD[low:high]
        if parts[0] is not None:
            sums_RD = torch.zeros_like(sums_RD)
            for part in parts:
                sums_RD += torch.tensor(part, device=self.device)
        old_RD = self.centroids_KD[low:high]
        dots_R = row_dots(sums_RD, old_RD).cpu().numpy()
        self.piece_RD = unit_centroids(sums_RD, old_RD)
        return dots_R, self._sendable(self.piece_RD)

    def _sendable(self, piece_RD: torch.Tensor) -> Piece:
        """A piece as it travels; with one worker it stays where it is."""
        return None if len(self.job.ranges) == 1 else piece_RD.cpu().numpy()

    def _take_centroids(self, splits: Sequence[Split], pieces: Sequence[Piece]) -> None:
        """Put the centroids together; without pieces they are those of ``restore``."""
        if not pieces:
            return
        parts = [self.piece_RD if piece is None else torch.tensor(piece, device=self.device) for piece in pieces]
        self.centroids_KD = torch.cat(parts)
        apply_splits(self.centroids_KD, splits)

    def _screen(self) -> Screen:
        return Screen(self.centroids_KD, precision=self.job.config.precision)

    # checkpoints

    def save(self, name: str) -> None:
        """Write this worker's range of the newest centroids."""
        table = pa.table({"centroid": features_column(self.piece_RD.cpu().numpy(), np.float32)})
        self.job.clusters.write_table(f"{name}-{self.number:04d}.parquet", table, compression="none")

    def restore(self, name: str, num_pieces: int, splits: Sequence[Split]) -> None:
        """Read the centroids that ``num_pieces`` workers saved."""
        pieces = []
        for number in range(num_pieces):
            table = self.job.clusters.read_table(f"{name}-{number:04d}.parquet")
            pieces.append(features_of_table(table, "centroid", np.float32).copy())
        self._take_centroids(splits, pieces)
        self.started, self.next_KD = False, None

    # the result

    def settle(self) -> int:
        """Give the rows' memory back; how many of the (final) centroids have a near twin, from the first worker."""
        if self.partition is not None:
            self._source.close()
            self.partition = None
        return near_twins(self.centroids_KD) if self.number == 0 else 0

    def assign_part(self, shard: int) -> ShardRecord:
        """Write the clusters and similarities of one feature part."""
        keys, rows_ND = self._read_rows(shard)
        screen = self._screen()
        labels, similarities = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
        for start in range(0, len(keys), self.job.config.block_rows):
            block = slice(start, start + self.job.config.block_rows)
            block_ND, _ = self._checked(rows_ND[block], keys[block], shard)
            label_N = screen.assign(block_ND)
            similarities.append(screen.similarities(block_ND, label_N).cpu())
            labels.append(label_N.cpu())
        similarity_N = torch.cat(similarities).numpy()
        table = pa.table(
            {
                "key": pa.array(keys, pa.string()),
                "cluster": pa.array(torch.cat(labels).int().numpy(), pa.int32()),
                "similarity": pa.array(similarity_N, pa.float32()),
            }
        )
        extra = {"similarity": math.fsum(similarity_N.tolist()), "node": this_node()}
        return self.job.clusters.commit_part(shard, table, rows_in=len(keys), extra=extra)

    def lift(self) -> object:
        """Sums of the original rows of this share by their final clusters, cut into the workers' ranges."""
        totals = ClusterSums(self.job.config.clusters, self.job.dim, self.device)
        for shard in self.shards:
            _, rows_ND = self._read_rows(shard)
            labels = self.job.clusters.read_part(shard, ["cluster"])["cluster"].to_numpy()
            label_N = torch.from_numpy(labels.astype(np.int64)).to(self.device)
            totals.move(torch.from_numpy(rows_ND).to(self.device), torch.full_like(label_N, -1), label_N)
        parts = [totals.sums_KD[low:high].cpu().numpy() for low, high in self.job.ranges]
        return parts if len(parts) > 1 else parts[0]

    def lifted_piece(self, *parts: NDArray[np.float64]) -> NDArray[np.float32]:
        """Mean directions of the original rows in this worker's range of clusters."""
        sums_RD = torch.zeros(parts[0].shape, dtype=torch.float64)
        for part in parts:
            sums_RD += torch.tensor(part)
        return unit_centroids(sums_RD, torch.zeros(parts[0].shape)).numpy()

    def write_centroids(self, sizes: Sequence[int], *pieces: NDArray[np.float32]) -> None:
        """Write ``centroids.parquet``: this worker's centroids, or those of the pieces."""
        centroids_KD = np.concatenate(pieces) if pieces else self.centroids_KD.cpu().numpy()
        table = pa.table(
            {
                "cluster": pa.array(range(len(sizes)), pa.int32()),
                "centroid": features_column(centroids_KD, np.float32),
                "size": pa.array(sizes, pa.int64()),
            }
        )
        table = with_row_facts(table, "centroid", np.float32)
        self.job.clusters.write_table("centroids.parquet", table, compression="none")

    @property
    def _partition(self) -> Partition:
        assert self.partition is not None, "load() comes first"
        return self.partition

    @property
    def _source(self) -> LocalRows:
        source = self._partition.source
        assert isinstance(source, LocalRows)
        return source


def _gathered(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float16]]], low: int, high: int, dim: int
) -> NDArray[np.float16]:
    """The rows that the workers sent, at their positions."""
    rows_RD = np.zeros((high - low, dim), dtype=np.float16)
    for positions, rows in parts:
        rows_RD[positions - low] = rows
    return rows_RD
