"""``rank``: regroup rows by cluster, measure each cluster, and order its rows once for every later budget.

    features + clusters --map--> rows by (cluster, chunk) --rank--> rows by sample shard --commit--> ranking

Greedy MMD picks are nested, so one full order per cluster serves every temperature and ratio: ``select`` keeps
``rank < quota``. Two shuffles: the first carries the feature rows once to their cluster, the second carries ranks back
to the shard that the rows came from, so that every noun of a run lines up with ``samples``.

Cost: N * D * 2 bytes written and read once, n^2 * D FLOP per cluster for its kernel. Memory of a task: its buckets
(``bucket_mb``) plus one kernel (``kernel_mb``); a cluster above ``max_rows`` is ranked in hashed chunks.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import RankConfig
from raycurate.features.rows import features_of_table
from raycurate.filesystem import delete_folder
from raycurate.ray_session import in_session
from raycurate.selection.chunks import chunk_of, interleaved_ranks, num_chunks
from raycurate.selection.density import Density, merge_densities
from raycurate.selection.keys import key_array
from raycurate.selection.mmd import rank_chunk
from raycurate.selection.transferability import TransferabilityReading, transferability
from raycurate.stages.shards import (
    check_made_from,
    describe,
    map_tasks,
    resumable_steps,
    run_missing_shards,
    skip_if_done,
    stage_progress,
    step_name,
)
from raycurate.stages.shuffle import read_buckets, sort_table, write_bucket_file
from raycurate.store import Manifest, Noun, Run, ShardRecord

STAGE_VERSION = 1

RANKED_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("row", pa.int32()),
        ("cluster", pa.int32()),
        ("similarity", pa.float32()),
        ("rank", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Units:
    """What is ranked on its own: every cluster, or every chunk of a large one. Unit ids follow cluster ids.

    Attributes:
        first_K: id of each cluster's first unit, int64 [K].
        chunks_K: number of chunks of each cluster, int64 [K].
    """

    first_K: np.ndarray
    chunks_K: np.ndarray

    @staticmethod
    def of(size_K: np.ndarray, max_rows: int) -> Units:
        """Units of clusters of these sizes."""
        chunks_K = np.array([num_chunks(int(size), max_rows) for size in size_K], dtype=np.int64)
        return Units(np.concatenate([[0], np.cumsum(chunks_K)[:-1]]).astype(np.int64), chunks_K)

    @property
    def count(self) -> int:
        """Units in all."""
        return int(self.chunks_K.sum())

    def cluster_of(self, unit: int) -> int:
        """The cluster of a unit."""
        return int(np.searchsorted(self.first_K, unit, side="right")) - 1

    def unit_of_rows(self, cluster_N: np.ndarray, keys_N: np.ndarray) -> np.ndarray:
        """The unit of each row, int64 [N]."""
        unit_N = self.first_K[cluster_N].copy()
        for cluster in np.unique(cluster_N[self.chunks_K[cluster_N] > 1]):
            rows = np.flatnonzero(cluster_N == cluster)
            unit_N[rows] += chunk_of(keys_N[rows], int(self.chunks_K[cluster]))
        return unit_N


@in_session
def rank(run: Run, config: RankConfig) -> Manifest:
    """Write the ``ranking`` noun: per row its rank in its cluster; ``clusters.parquet``: size, S and D per cluster."""
    features = run.noun("features", config.features)
    clusters = run.noun("clusters", config.clusters)
    feature_manifest, cluster_manifest = features.require("extract"), clusters.require("cluster")
    check_made_from(cluster_manifest, feature_manifest, "cluster")
    inputs = {"features": feature_manifest.fingerprint, "clusters": cluster_manifest.fingerprint}
    description = describe("rank", STAGE_VERSION, config, inputs)
    noun = run.noun("ranking", config.label)
    if done := skip_if_done(noun, description):
        return done
    noun.begin(description)
    centroids = clusters.read_table("centroids.parquet", columns=["cluster", "size"])
    size_K = centroids["size"].to_numpy()
    units = Units.of(size_K, config.max_rows)
    num_shards = feature_manifest.shards
    total = feature_manifest.rows_out
    rows_U = np.zeros(units.count, dtype=np.int64)
    densities: list[dict[str, int]] = []
    with stage_progress("rank", noun, 3 * total, "row passes") as progress:
        scatter = functools.partial(_scatter_shard, noun, features, clusters, units)
        shards = [(shard,) for shard in range(num_shards)]
        for _, routed in resumable_steps(noun, "routed", scatter, shards, max_tasks=config.max_tasks):
            rows_U[routed["units"]] += routed["rows"]
            progress.advance(sum(routed["rows"]))
        row_bytes = 2 * int(feature_manifest.metrics["dimension"])
        ranges = _unit_ranges(rows_U, row_bytes, config.bucket_mb << 20)
        routed_uris = [noun.uri_of(step_name("routed", shard, "arrow")) for shard in range(num_shards)]
        order = functools.partial(_rank_units, noun, routed_uris, units, rows_U, config)
        for _, ranked in resumable_steps(noun, "ranked", order, ranges, max_tasks=config.max_tasks):
            densities += ranked["densities"]
            progress.advance(ranked["rows"])
    table = _density_table(densities, size_K)
    for reading, values_K in _transferabilities(clusters, size_K, feature_manifest).items():
        table = table.append_column(f"transferability_{reading}", pa.array(values_K))
    noun.write_table("clusters.parquet", table)
    ranked_uris = [noun.uri_of(step_name("ranked", number, "arrow")) for number in range(len(ranges))]
    gather = functools.partial(_gather_shard, noun, ranked_uris)
    run_missing_shards(
        "rank", noun, gather, num_shards=num_shards, total_rows=total, num_cpus=0.5, max_tasks=config.max_tasks
    )
    delete_folder(noun.filesystem, f"{noun.folder}/work")
    return noun.finish(metrics={"clusters": len(size_K), "chunked_clusters": int((units.chunks_K > 1).sum())})


def _scatter_shard(noun: Noun, features: Noun, clusters: Noun, units: Units, number: int, shard: int) -> dict[str, Any]:
    """Map task: the rows of one features part, grouped by unit."""
    rows = features.read_part(shard)
    assigned = clusters.read_part(shard)
    assert rows["key"].equals(assigned["key"]), f"features and clusters differ in shard {shard}"
    unit_N = units.unit_of_rows(assigned["cluster"].to_numpy(), key_array(rows["key"]))
    table = pa.table(
        {
            "key": rows["key"],
            "unit": pa.array(unit_N),
            "shard": pa.array(np.full(rows.num_rows, shard, dtype=np.int32)),
            "row": pa.array(np.arange(rows.num_rows, dtype=np.int32)),
            "similarity": assigned["similarity"],
            "features": rows["features"],
        }
    )
    units_B, rows_B = write_bucket_file(noun.uri_of(step_name("routed", number, "arrow")), table, unit_N)
    return {"units": units_B.tolist(), "rows": rows_B.tolist()}


def _unit_ranges(rows_U: np.ndarray, row_bytes: int, max_bytes: int) -> list[tuple[int, int]]:
    """Runs of neighbouring units that hold at most ``max_bytes`` of features (one unit may hold more)."""
    ranges: list[tuple[int, int]] = []
    start, held = 0, 0
    for unit, rows in enumerate(rows_U.tolist()):
        if held and held + rows * row_bytes > max_bytes:
            ranges.append((start, unit))
            start, held = unit, 0
        held += rows * row_bytes
    ranges.append((start, len(rows_U)))
    return ranges


def _rank_units(
    noun: Noun,
    uris: list[str],
    units: Units,
    rows_U: np.ndarray,
    config: RankConfig,
    number: int,
    low: int,
    high: int,
) -> dict[str, Any]:
    """Reduce task: order the rows of some units, and route the ranks back to their shards."""
    parts = [RANKED_SCHEMA.append(pa.field("shard", pa.int32())).empty_table()]
    densities: list[dict[str, int]] = []
    routed = sort_table(read_buckets(uris, low, high), "unit", "key")
    bounds = np.searchsorted(routed["unit"].to_numpy(), np.arange(low, high + 1))
    for unit, start, end in zip(range(low, high), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if end > start:
            part, density = _rank_unit(routed.slice(start, end - start), unit, units, rows_U, config)
            parts.append(part)
            densities.append({"cluster": units.cluster_of(unit), **asdict(density)})
    table = pa.concat_tables(parts)
    uri = noun.uri_of(step_name("ranked", number, "arrow"))
    write_bucket_file(uri, table.drop_columns("shard"), table["shard"].to_numpy())
    return {"rows": table.num_rows, "densities": densities}


def _rank_unit(
    rows: pa.Table, unit: int, units: Units, rows_U: np.ndarray, config: RankConfig
) -> tuple[pa.Table, Density]:
    keys_N = key_array(rows["key"])
    cluster = units.cluster_of(unit)
    first, count = int(units.first_K[cluster]), int(units.chunks_K[cluster])
    ranking = rank_chunk(features_of_table(rows), keys_N, sigma=config.sigma, kernel_bytes=config.kernel_mb << 20)
    rank_N = ranking.rank_N
    if count > 1:
        rank_N = interleaved_ranks(rank_N, unit - first, rows_U[first : first + count].tolist())
    columns: dict[str, Any] = {
        "key": rows["key"],
        "row": rows["row"],
        "cluster": pa.array(np.full(rows.num_rows, cluster, dtype=np.int32)),
        "similarity": rows["similarity"],
        "rank": pa.array(rank_N),
    }
    return pa.table(columns, schema=RANKED_SCHEMA).append_column("shard", rows["shard"]), ranking.density


def _transferabilities(clusters: Noun, size_K: np.ndarray, features: Manifest) -> dict[str, np.ndarray]:
    """S of every cluster by reading, computed in one task so that the driver never holds the centroids."""
    readings: tuple[TransferabilityReading, ...] = ("paper", "code")
    block_dim = int(features.metrics["block_dim"])

    def compute() -> dict[str, np.ndarray]:
        centroids_KD = features_of_table(clusters.read_table("centroids.parquet"), "centroid")
        return {name: transferability(centroids_KD, size_K, reading=name, block_dim=block_dim) for name in readings}

    return next(map_tasks(compute, [()]))


def _density_table(densities: list[dict[str, int]], size_K: np.ndarray) -> pa.Table:
    """One row a cluster: size and both readings of the density."""
    parts: dict[int, list[Density]] = {}
    for entry in densities:
        values = dict(entry)
        parts.setdefault(values.pop("cluster"), []).append(Density(**values))
    merged = [merge_densities(parts.get(cluster, [])) for cluster in range(len(size_K))]
    return pa.table(
        {
            "cluster": pa.array(range(len(size_K)), pa.int32()),
            "size": pa.array([d.size for d in merged], pa.int64()),
            "density_paper": [d.paper for d in merged],
            "density_code": [d.code for d in merged],
            "pairs": pa.array([d.pairs for d in merged], pa.int64()),
        }
    )


def _gather_shard(noun: Noun, uris: list[str], shard: int) -> ShardRecord:
    """Reduce task: the ranks of one sample shard, in the order of its rows."""
    table = sort_table(read_buckets(uris, shard, shard + 1), "row").drop_columns("row")
    return noun.commit_part(shard, table, rows_in=table.num_rows)
