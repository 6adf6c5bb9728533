"""``rank``: regroup rows, order each group's rows once for every later budget, and measure clusters.

    features (+ clusters, scores) --map--> rows by group --rank--> rows by sample shard --commit--> ranking

A group is a cluster, a task in one, a hashed chunk of either, a cluster of one task's rows (``ranking/by_task.py``),
or all rows, as the method asks (``ranking/groups.py``).
Orders are nested, so one full order per group serves every temperature and ratio: ``select`` keeps ``rank < quota``.
Two shuffles: the first carries the feature rows once to their group, the second carries ranks back to the shard that
the rows came from, so that every noun of a run lines up with ``samples``. Rows without a score, where one is needed,
take no part.

Cost: N * D * 2 bytes written and read once; per group what its method says (greedy MMD: n^2 * D FLOP for the kernel).
Memory of a task: its buckets (``bucket_mb``) plus what the method takes; greedy MMD bounds it by ``kernel_mb`` and
ranks a cluster above ``max_rows`` in hashed chunks. A method that orders all rows together holds them in one task on
one node: above ``memory_gb`` that is refused before any work. Where it walks on a graph of neighbours, nothing is
regrouped and the graph is made in parts (``ranking/graph.py``); where targets take turns, likewise
(``ranking/targets.py``); where sums over its group say the value of a row, all is read twice and nothing is held
(``ranking/passes.py``).
"""

from __future__ import annotations

import functools
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import RankConfig
from raycurate.errors import UserError
from raycurate.estimate.formulas import rank_work
from raycurate.features.rows import features_of_table
from raycurate.plugins import source_hash
from raycurate.ray_session import in_session_unless, largest_node_cpus
from raycurate.run.filesystem import delete_folder
from raycurate.run.manifest import Manifest, ShardRecord, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.selection import build_selector
from raycurate.selection.cells import CellTable, add_counts
from raycurate.selection.chunks import interleaved_ranks
from raycurate.selection.density import Density, merge_densities
from raycurate.selection.keys import key_array
from raycurate.selection.mmd import GreedyMmd
from raycurate.selection.ranked import (
    GroupRows,
    Ranked,
    RankedByPasses,
    RankedByTargets,
    RankedInGroups,
    RankedInTasks,
    RankedOnGraph,
)
from raycurate.selection.transferability import TransferabilityReading, transferability
from raycurate.stages.engine.foreseen import cpus_here, foresee
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.shards import (
    describe,
    map_tasks,
    resumable_steps,
    run_missing_shards,
    skip_if_done,
    stage_progress,
    step_name,
)
from raycurate.stages.engine.shuffle import read_buckets, sort_table, write_bucket_file
from raycurate.stages.ranking.by_task import rank_task
from raycurate.stages.ranking.graph import rank_on_graph
from raycurate.stages.ranking.groups import Groups
from raycurate.stages.ranking.inputs import RankInputs
from raycurate.stages.ranking.passes import rank_by_passes
from raycurate.stages.ranking.rows import RANKED_SCHEMA, ranked_rows, write_ranked
from raycurate.stages.ranking.targets import rank_by_targets

GREEDY_MMD, BY_TASK = "mmd", "mmd_by_task"
VALUES_HERE = 100_000_000
"""Numbers of all features that one process orders in the seconds that a cluster takes to start."""
BATCH_BYTES = 5120
"""What a batch of rows takes beside the rows; each shard has one for each unit, and units may be of few rows."""


def _is_small(run: Run, config: RankConfig) -> bool:
    """Whether one process orders the rows about as fast as a cluster starts."""
    features = run.noun("features", config.features).manifest()
    return features is not None and features.rows_out * int(features.metrics["dimension"]) <= VALUES_HERE


@in_session_unless(_is_small)
def rank(run: Run, config: RankConfig) -> Manifest:
    """Write the ``ranking`` noun: per row its rank in its group, and what is behind it.

    With greedy MMD also ``clusters.parquet``: size, S and D per cluster; by task ``cells.parquet``: the sizes of cells.

    Raises:
        UserError: an order that is no method's, inputs that are missing or stale, a group that is too large.
    """
    method = ranked_method(config)
    inputs = RankInputs.of(run, config, method)
    feature_manifest = required(inputs.features)
    read = inputs.manifests()
    made_from: dict[str, str] = {}
    for each in read:  # targets have features of their own, after those of the rows
        made_from.setdefault(each.noun, each.fingerprint)
    if (own := source_hash(config.order)) is not None:
        made_from["method"] = own
    description = describe("rank", config, made_from, read)
    noun = run.noun("ranking", config.label)
    if done := skip_if_done(noun, description):
        return done
    if isinstance(method, RankedByPasses):
        begin(noun, description, replace=config.replace)
        metrics = rank_by_passes(noun, inputs, config, method, feature_manifest)
        delete_folder(noun.filesystem, f"{noun.folder}/work")
        return noun.finish(metrics=metrics)
    dim = int(feature_manifest.metrics["dimension"])
    if inputs.samples is not None:  # counting its cells is work already
        begin(noun, description, replace=config.replace)
    groups = Groups.of(noun, inputs, config, feature_manifest, in_chunks=isinstance(method, GreedyMmd))
    memory = _memory(config, method, dim, groups)
    begin(noun, description, replace=config.replace)
    if isinstance(method, GreedyMmd):
        work = functools.partial(
            rank_work,
            feature_manifest.rows_out,
            dim,
            len(groups.size_G),
            max_rows=config.max_rows,
            bucket_bytes=config.bucket_mb << 20,
        )
        foresee(noun, work, cpus=cpus_here())
    metrics = _rank_groups(noun, inputs, config, method, groups, feature_manifest, memory)
    delete_folder(noun.filesystem, f"{noun.folder}/work")
    return noun.finish(metrics=metrics)


def _rank_groups(
    noun: Noun,
    inputs: RankInputs,
    config: RankConfig,
    method: RankedInGroups | RankedOnGraph | RankedByTargets,
    groups: Groups,
    manifest: Manifest,
    memory: int,
) -> dict[str, int]:
    """Order the rows of every group, bring the ranks back to their shards, and tell how many groups there are."""
    densities: list[dict[str, int]] = []
    cells = groups.cells
    if isinstance(method, RankedOnGraph):
        files = rank_on_graph(noun, inputs, config, method, manifest, memory)
    elif isinstance(method, RankedByTargets):
        files = rank_by_targets(noun, inputs, config, method, manifest)
    else:
        densities, found, files = _order(noun, inputs, config, method, groups, manifest)
        cells = CellTable.of(add_counts([found])) if isinstance(method, RankedInTasks) else cells
    if cells is not None:
        noun.write_table("cells.parquet", cells.to_table())
    elif densities:
        assert inputs.clusters is not None, "densities are of clusters"
        table = _density_table(densities, groups.size_G)
        for reading, values_K in _transferabilities(inputs.clusters, groups.size_G, manifest).items():
            table = table.append_column(f"transferability_{reading}", pa.array(values_K))
        noun.write_table("clusters.parquet", table)
    ranked_uris = [noun.uri_of(step_name("ranked", number, "arrow")) for number in range(files)]
    run_missing_shards(
        "rank",
        noun,
        functools.partial(_gather_shard, noun, ranked_uris),
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        num_cpus=0.5,
        max_tasks=config.max_tasks,
    )
    kind, count = ("clusters", len(groups.size_G)) if cells is None else ("cells", len(cells.size_C))
    return {kind: count, f"chunked_{kind}": int((groups.units.chunks_G > 1).sum())}


def ranked_method(config: RankConfig) -> RankedInGroups | RankedOnGraph | RankedByTargets | RankedByPasses:
    """The method that orders the rows of a group; raises UserError for one that orders none."""
    if config.order in (GREEDY_MMD, BY_TASK):
        by_task = config.order == BY_TASK
        return GreedyMmd(sigma=config.sigma, kernel_bytes=config.kernel_mb << 20, by_task=by_task)
    selector = build_selector(config.order, config.options)
    if not isinstance(selector, RankedInGroups | RankedOnGraph | RankedByTargets | RankedByPasses):
        raise UserError(
            f"method '{config.order}' orders no groups: there is nothing to rank, `raycurate select` runs it directly"
        )
    return selector


def _memory(config: RankConfig, method: Ranked, dim: int, groups: Groups) -> int:
    """Bytes that the largest group takes in a task; raises UserError where that is above ``memory_gb``."""
    largest = int((-(-groups.size_G // groups.units.chunks_G)).max(initial=0))
    needed = largest * method.rank_bytes_per_row(dim)
    if needed > config.memory_gb * 2**30:
        raise UserError(
            f"order '{config.order}' holds {largest:,} rows of {dim} dimensions in one task, about "
            f"{needed / 2**30:.2g} GiB; the bound is memory_gb={config.memory_gb:g}. On a node with more memory run "
            f"`raycurate rank` with order={config.order}, label={config.label} and a larger memory_gb first; otherwise "
            "take a smaller embedding or more clusters."
        )
    return needed


def _order(
    noun: Noun, inputs: RankInputs, config: RankConfig, method: RankedInGroups, groups: Groups, manifest: Manifest
) -> tuple[list[dict[str, int]], list[tuple[str, int, int]], int]:
    """Bring the rows of each unit to one task and order them.

    Returns:
        Kernel sums of units that have them, cells that were found in tasks, and the number of files written.
    """
    rows_U = np.zeros(groups.units.count, dtype=np.int64)
    densities: list[dict[str, int]] = []
    cells: list[tuple[str, int, int]] = []
    with stage_progress("rank", noun, 3 * manifest.rows_out, "row passes") as progress:
        scatter = functools.partial(_scatter_shard, noun, inputs, groups)
        shards = [(shard,) for shard in range(manifest.shards)]
        for _, routed in resumable_steps(noun, "routed", scatter, shards, max_tasks=config.max_tasks):
            rows_U[routed["units"]] += routed["rows"]
            progress.advance(sum(routed["rows"]))
        row_bytes = 2 * int(manifest.metrics["dimension"])
        bytes_U = rows_U * row_bytes + np.minimum(rows_U, manifest.shards) * BATCH_BYTES
        ranges = _unit_ranges(bytes_U, config.bucket_mb << 20)
        step = f"ranked-{fingerprint_of({'ranges': ranges})[:8]}"  # another bucket_mb divides the work otherwise
        routed_uris = [noun.uri_of(step_name("routed", shard, "arrow")) for shard in range(manifest.shards)]
        order = functools.partial(_rank_units, noun, routed_uris, groups, rows_U, method)
        # Half of a node, so that a caller that holds some of its CPUs itself does not wait for ever.
        cpus = max(1.0, largest_node_cpus() // 2) if inputs.clusters is None else 1.0
        steps = resumable_steps(noun, step, order, ranges, num_cpus=cpus, max_tasks=config.max_tasks)
        for _, ranked in steps:
            densities += ranked["densities"]
            cells += [tuple(cell) for cell in ranked.get("cells", ())]
            progress.advance(ranked["rows"])
    return densities, cells, len(ranges)


def _scatter_shard(noun: Noun, inputs: RankInputs, groups: Groups, number: int, shard: int) -> dict[str, Any]:
    """Map task: the rows of one features part, grouped by unit."""
    rows = inputs.features.read_part(shard)
    if inputs.clusters is None:
        unit_N = groups.unit_of_rows(inputs, shard, rows, None)
        similarity = pa.nulls(rows.num_rows, pa.float32())
    else:
        assigned = inputs.clusters.read_part(shard)
        assert rows["key"].equals(assigned["key"]), f"features and clusters differ in shard {shard}"
        unit_N = groups.unit_of_rows(inputs, shard, rows, assigned["cluster"])
        similarity = assigned["similarity"]
    table = pa.table(
        {
            "key": rows["key"],
            "unit": pa.array(unit_N),
            "shard": pa.array(np.full(rows.num_rows, shard, dtype=np.int32)),
            "row": pa.array(np.arange(rows.num_rows, dtype=np.int32)),
            "similarity": similarity,
            "score": inputs.scores_of(shard, rows["key"]),
            "features": rows["features"],
        }
    )
    if inputs.scores is not None:
        table = table.filter(table["score"].is_valid())
    uri = noun.uri_of(step_name("routed", number, "arrow"))
    units_B, rows_B = write_bucket_file(uri, table, table["unit"].to_numpy())
    return {"units": units_B.tolist(), "rows": rows_B.tolist()}


def _unit_ranges(bytes_U: np.ndarray, max_bytes: int) -> list[tuple[int, int]]:
    """Runs of neighbouring units that hold at most ``max_bytes`` (one unit may hold more)."""
    ranges: list[tuple[int, int]] = []
    start, held = 0, 0
    for unit, own in enumerate(bytes_U.tolist()):
        if held and held + own > max_bytes:
            ranges.append((start, unit))
            start, held = unit, 0
        held += own
    ranges.append((start, len(bytes_U)))
    return ranges


def _rank_units(
    noun: Noun,
    uris: list[str],
    groups: Groups,
    rows_U: np.ndarray,
    method: RankedInGroups,
    number: int,
    low: int,
    high: int,
) -> dict[str, Any]:
    """Reduce task: order the rows of some units, and route the ranks back to their shards."""
    parts = [RANKED_SCHEMA.empty_table()]
    densities: list[dict[str, int]] = []
    cells: list[tuple[str, int, int]] = []
    routed = sort_table(read_buckets(uris, low, high), "unit", "key")
    bounds = np.searchsorted(routed["unit"].to_numpy(), np.arange(low, high + 1))
    for unit, start, end in zip(range(low, high), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if end > start and isinstance(method, RankedInTasks):
            assert groups.cells is not None, "tasks are units"
            found, made = rank_task(routed.slice(start, end - start), groups.cells, unit, method)
            parts.append(found)
            cells += made
        elif end > start:
            part, density = _rank_unit(routed.slice(start, end - start), unit, groups, rows_U, method)
            parts.append(part)
            if density is not None and groups.cells is None:
                densities.append({"cluster": groups.units.group_of(unit), **asdict(density)})
    table = pa.concat_tables(parts)
    write_ranked(noun, number, table)
    return {"rows": table.num_rows, "densities": densities, "cells": cells}


def _rank_unit(
    rows: pa.Table, unit: int, groups: Groups, rows_U: np.ndarray, method: RankedInGroups
) -> tuple[pa.Table, Density | None]:
    group = groups.units.group_of(unit)
    first, count = int(groups.units.first_G[group]), int(groups.units.chunks_G[group])
    held = GroupRows(
        features_ND=features_of_table(rows),
        keys_N=key_array(rows["key"]),
        similarity_N=rows["similarity"].cast(pa.float64()).to_numpy(),
        score_N=rows["score"].to_numpy(),
    )
    made = method.rank_group(held)
    if count > 1:
        rank_N = interleaved_ranks(made.rank_N, unit - first, rows_U[first : first + count].tolist())
        made = replace(made, rank_N=rank_N)
    return ranked_rows(rows, groups.cluster_of(unit), made), made.density


def _transferabilities(clusters: Noun, size_K: np.ndarray, features: Manifest) -> dict[str, np.ndarray]:
    """S of every cluster by reading, computed in one task so that the driver never holds the centroids."""
    block_dim, dim = int(features.metrics["block_dim"]), int(features.metrics["dimension"])
    readings: tuple[TransferabilityReading, ...] = ("paper", "code") if dim % (2 * block_dim) == 0 else ("paper",)

    def compute() -> dict[str, np.ndarray]:
        centroids_KD = features_of_table(clusters.read_table("centroids.parquet"), "centroid", np.float32)
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
