"""What a sweep says of a selection: its tasks, its clusters, its distance to all rows, its overlap with others.

Everything is read shard by shard; the numbers are counts and sums of integers, so they do not depend on the shards.

Cost of one selection: the key and sketch columns once, N * (40 + 4 M) bytes, M the number of frequencies.
Memory: one shard's sketches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun
from raycurate.selection.coverage import cluster_coverage, shared_rows
from raycurate.selection.sketch import SketchSum, squared_mmd, sum_sketches
from raycurate.stages.engine.shards import map_tasks
from raycurate.stages.sketch import read_total, sketch_of_table


@dataclass(frozen=True)
class Reference:
    """What selections are measured against: clusters and sketches of all rows, of the same shards."""

    clusters: Noun
    sketches: Noun


def measure_selection(noun: Noun, manifest: Manifest, reference: Reference | None) -> dict[str, Any]:
    """The statistics of a finished selection as plain values; without a reference those of its tasks only."""
    tasks = noun.read_table("tasks.parquet", columns=["task", "kept"])
    found: dict[str, Any] = {
        "selection": manifest.fingerprint,
        "kept": manifest.metrics["kept"],
        "target": manifest.metrics["target"],
        "tasks": dict(zip(tasks["task"].to_pylist(), tasks["kept"].to_pylist(), strict=True)),
    }
    if reference is None:
        return {**found, "clusters": None, "clusters_covered": None, "mmd2": None, "mmd2_error": None}
    size_K = reference.clusters.read_table("centroids.parquet", columns=["size"])["size"].to_numpy()
    kept_K = np.zeros(len(size_K), dtype=np.int64)
    total = read_total(reference.sketches)
    kept_sum = SketchSum(rows=0, total_F=np.zeros_like(total.total_F))
    for shard in range(manifest.shards):
        assigned = reference.clusters.read_part(shard, ["key", "cluster"])
        kept_N = _kept_of(noun, shard, assigned["key"])
        kept_K += np.bincount(assigned["cluster"].to_numpy()[kept_N], minlength=len(size_K))
        rows = reference.sketches.read_part(shard)
        assert rows["key"].equals(assigned["key"]), f"sketches and clusters differ in shard {shard}"
        kept_sum += sum_sketches(sketch_of_table(rows)[kept_N])
    coverage, distance = cluster_coverage(size_K, kept_K), squared_mmd(total, kept_sum)
    return {
        **found,
        "clusters": coverage.clusters,
        "clusters_covered": coverage.covered,
        "mmd2": None if distance is None else distance.value,
        "mmd2_error": None if distance is None else distance.error,
    }


def count_shared(selections: list[Noun], num_shards: int) -> np.ndarray:
    """How many rows each pair of selections keeps both, int64 [T, T]; one Ray task per shard."""

    def count(shard: int) -> np.ndarray:
        return shared_rows(np.stack([_kept(noun.read_part(shard, ["kept"])) for noun in selections]))

    total_TT = np.zeros((len(selections), len(selections)), dtype=np.int64)
    for part_TT in map_tasks(count, ((shard,) for shard in range(num_shards)), num_cpus=0.5):
        total_TT += part_TT
    return total_TT


def _kept(rows: pa.Table) -> np.ndarray:
    return rows["kept"].to_numpy().astype(bool)


def _kept_of(noun: Noun, shard: int, keys: pa.ChunkedArray) -> np.ndarray:
    """Whether each key of a shard is kept, bool [N]; a key that the selection does not have is an error."""
    rows = noun.read_part(shard, ["key", "kept"])
    where = pc.index_in(keys, value_set=rows["key"].combine_chunks())
    assert where.null_count == 0, f"rows of shard {shard} are not in the selection"
    return _kept(rows)[where.to_numpy()]
