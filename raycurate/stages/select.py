"""``select``: plan from small tables, cut exactly, decide every shard, count what was kept.

    samples (+ ranking or clusters, scores) --plan on the driver--> quotas --cut by streaming counts--> boundaries
        --decide per shard--> selection

The method (``raycurate.selection``) is a function of arrays; here its blocks are shards. Rows of ``samples`` without
features or a score (quarantined before) are kept in the output as dropped, so the selection has one row per sample. A
method that orders groups of rows first has that done here, by ``rank``, if it is not done yet.

Cost: one pass over N rows of about 60 bytes, plus the passes of the cut where a method needs one. No feature is read.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import RankConfig, SelectConfig, make_config
from raycurate.errors import UserError
from raycurate.plugins import source_hash
from raycurate.ray_session import in_session
from raycurate.run.filesystem import exists
from raycurate.run.store import Manifest, Noun, Run, ShardRecord
from raycurate.selection import ClusterTable, Goal, Plan, SelectionTables, Selector, build_selector
from raycurate.selection.diversity import task_diversity, top_tasks
from raycurate.selection.methods.by_score import ByScore
from raycurate.selection.methods.on_graph import OnGraph
from raycurate.selection.ranked import Ranked
from raycurate.selection.threshold import CutRequest, CutSummary, find_cuts, merge_summaries, summarize
from raycurate.stages.engine.lineage import begin, required, why_stale
from raycurate.stages.engine.names import ROW_SCORES
from raycurate.stages.engine.shards import MapShards, describe, map_tasks, run_missing_shards, skip_if_done
from raycurate.stages.engine.sources import Sources, check_sources, sources_of
from raycurate.stages.rank import rank

NO_FEATURES, NO_SCORE = "no_features", "no_score"
LACKS = "lacks"
EachShard = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]


def check_target(ratio: float, num_rows: int) -> None:
    """Raise `UserError` for a ratio that keeps no row of a dataset that has some."""
    if num_rows and round(ratio * num_rows) == 0:
        shown = (f"{0.505 / num_rows:.{digits}g}" for digits in range(2, 18))
        least = next(text for text in shown if round(float(text) * num_rows) > 0)
        raise UserError(
            f"ratio {ratio:g} of {num_rows:,} rows keeps none: round({ratio * num_rows:.3g}) is 0. The smallest ratio "
            f"that keeps one is {least}"
        )


@in_session
def select(run: Run, config: SelectConfig, map_shards: MapShards = map_tasks) -> Manifest:
    """Write the ``selection`` noun: per sample kept or not, cluster, rank, score, reason; and two small tables.

    Args:
        map_shards: how a function is applied to many shards; `map_here` stays in this process.
    """
    selector = build_selector(config.method, config.options)
    goal = Goal(ratio=config.ratio, seed=config.seed)
    samples = run.noun("samples", config.samples)
    sample_manifest = required(samples)
    inputs = select_inputs(run, config)
    sources = sources_of(run, config, selector)
    read_now = [sample_manifest, *(each.require("select") for each in sources.joined)]
    description = describe("select", config, inputs, read_now)
    check_target(config.ratio, sample_manifest.rows_out)
    noun = run.noun("selection", config.label)
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace)
    tasks: dict[str, int] = sample_manifest.metrics["tasks"]
    read = functools.partial(read_rows, samples, sources, selector.columns)
    each_shard = functools.partial(map_shards, num_cpus=0.5, max_tasks=config.max_tasks)
    tables = SelectionTables(
        num_rows=sample_manifest.rows_out,
        tasks=tasks,
        clusters=_cluster_table(sources.ranking or sources.clusters),
        num_usable=_num_usable(selector, sources, read, sample_manifest.shards, each_shard),
    )
    plan = _cut(selector, selector.plan(tables, goal), read, sample_manifest.shards, each_shard)
    decide = functools.partial(_decide_shard, noun, selector, plan, read)
    run_missing_shards(
        "select",
        noun,
        decide,
        num_shards=sample_manifest.shards,
        total_rows=sample_manifest.rows_out,
        num_cpus=0.5,
        max_tasks=config.max_tasks,
        map_shards=map_shards,
    )
    return noun.finish(metrics=_write_tables(noun, plan, tasks))


def select_inputs(run: Run, config: SelectConfig) -> dict[str, str]:
    """Fingerprint by noun of what a selection is made from, checked; rows are ranked where that is needed."""
    samples = required(run.noun("samples", config.samples))
    selector = build_selector(config.method, config.options)
    sources = sources_of(run, config, selector)
    check_sources(sources, samples)
    _rank_if_stale(run, config, selector, sources)
    joined = {noun.label if noun.noun == ROW_SCORES else noun.noun: noun for noun in sources.joined}
    inputs = {"samples": samples.fingerprint} | {name: required(noun).fingerprint for name, noun in joined.items()}
    own = source_hash(config.method)
    return inputs if own is None else {**inputs, "method": own}


def _rank_if_stale(run: Run, config: SelectConfig, selector: Selector, sources: Sources) -> None:
    """Rank where that was not done yet, or was done from something that is gone."""
    if sources.ranking is None or sources.features is None:
        return
    settings = {"features": sources.features.label, "label": sources.ranking.label, "scores": config.scores}
    if sources.clusters is not None:
        settings["clusters"] = sources.clusters.label
    if isinstance(selector, Ranked):
        rank(run, make_config(RankConfig, {**settings, "order": config.method, "options": config.options}))
        return
    assert sources.clusters is not None, "greedy MMD orders clusters"
    ranking = sources.ranking.manifest()
    if ranking is None or why_stale(sources.ranking, ranking) is not None or sources.ranking.lost_files(ranking):
        rank(run, make_config(RankConfig, settings))


def _num_usable(selector: Selector, sources: Sources, read: Any, num_shards: int, each_shard: EachShard) -> int | None:
    """Rows that can be kept: those that everything joined has and, by score, those with one.

    One streaming count, unless one noun is joined of which every row can be kept.
    """
    if not sources.joined:
        return None
    if len(sources.joined) == 1 and (isinstance(selector, OnGraph) or not isinstance(selector, ByScore)):
        return required(sources.joined[0]).rows_out

    def count(shard: int) -> int:
        rows = read(shard)
        if isinstance(selector, ByScore):
            return int(np.count_nonzero(selector.takes_part(rows)))
        return int(rows[LACKS].null_count)

    return sum(each_shard(count, ((shard,) for shard in range(num_shards))))


def _cluster_table(grouped: Noun | None) -> ClusterTable | None:
    if grouped is None:
        return None
    if grouped.noun == "clusters":
        table = grouped.read_table("centroids.parquet", columns=["cluster", "size"])
        return ClusterTable(cluster_K=_int64(table, "cluster"), size_K=_int64(table, "size"))
    if not exists(grouped.filesystem, f"{grouped.folder}/clusters.parquet"):
        return None
    table = grouped.read_table("clusters.parquet")

    def readings(prefix: str) -> dict[str, np.ndarray]:
        names = [name for name in table.column_names if name.startswith(prefix)]
        return {name.removeprefix(prefix): table[name].to_numpy() for name in names}

    return ClusterTable(
        cluster_K=_int64(table, "cluster"),
        size_K=_int64(table, "size"),
        transferability=readings("transferability_"),
        density=readings("density_"),
    )


def _int64(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.int64)


def read_rows(samples: Noun, sources: Sources, columns: frozenset[str], shard: int) -> pa.Table:
    """The rows of one shard as methods see them: key, task, what was joined, and what a row lacks, if anything."""
    rows = samples.read_part(shard, ["key", "source_id", "task"])
    lacks = pa.nulls(rows.num_rows, pa.string())
    for noun in sources.joined:
        found = noun.read_part(shard)
        where = pc.index_in(rows["key"], value_set=found["key"].combine_chunks()).combine_chunks()
        for name in found.column_names:
            if name not in rows.column_names and name in {*columns, "cluster", "similarity", "rank"}:
                rows = rows.append_column(name, found[name].take(where))
        scored = noun.noun == ROW_SCORES or sources.ranking_scores is not None
        lacks = pc.if_else(pc.is_null(where), pa.scalar(NO_SCORE if scored else NO_FEATURES), lacks)
    return rows.append_column(LACKS, lacks)


def _cut(selector: Selector, plan: Plan, read: Any, num_shards: int, each_shard: EachShard) -> Plan:
    """Find the exact boundaries of a plan that needs them, by counting in every shard and adding up."""
    if not plan.needs_cut:
        return plan

    def answer(request: CutRequest, shard: int) -> CutSummary:
        return summarize(request, selector.order(plan, read(shard)))

    def ask(request: CutRequest) -> CutSummary:
        merged: CutSummary | None = None
        for part in each_shard(answer, ((request, shard) for shard in range(num_shards))):
            merged = part if merged is None else merge_summaries([merged, part])
        assert merged is not None, "a samples noun has at least one shard"
        return merged

    return find_cuts(plan, ask)


def _decide_shard(noun: Noun, selector: Selector, plan: Plan, read: Any, shard: int) -> ShardRecord:
    rows: pa.Table = read(shard)
    decisions = selector.decide(plan, rows)
    reasons = decisions.reason_N.astype(object)
    clusters = rows["cluster"] if "cluster" in rows.column_names else pa.nulls(rows.num_rows, pa.int32())
    lacks_N = np.array(rows[LACKS].to_pylist(), dtype=object)
    reasons = np.where(rows[LACKS].is_valid().to_numpy(), lacks_N, reasons)
    table = pa.table(
        {
            "key": rows["key"],
            "source_id": rows["source_id"],
            "task": rows["task"],
            "kept": pa.array(decisions.kept_N, pa.bool_()),
            "cluster": clusters,
            "rank": rows["rank"] if "rank" in rows.column_names else pa.nulls(rows.num_rows, pa.int64()),
            "score": pa.array(decisions.score_N, pa.float64()),
            "reason": pa.array(reasons.tolist(), pa.string()),
        }
    )
    kept = table.filter(table["kept"])
    by_cluster = Counter(zip(table["cluster"].to_pylist(), table["task"].to_pylist(), strict=True))
    extra = {
        "kept": kept.num_rows,
        "kept_tasks": dict(Counter(kept["task"].to_pylist())),
        "kept_clusters": list(Counter(kept["cluster"].to_pylist()).items()),
        "cluster_tasks": [[c, t, n] for (c, t), n in by_cluster.items() if c is not None],
        "reasons": dict(Counter(table["reason"].to_pylist())),
    }
    return noun.commit_part(shard, table, rows_in=rows.num_rows, extra=extra)


def _write_tables(noun: Noun, plan: Plan, tasks: dict[str, int]) -> dict[str, Any]:
    """The task table and the cluster table, from the shards' records; returns the manifest's numbers."""
    kept_tasks: Counter[str] = Counter()
    kept_clusters: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    in_cluster: dict[int, Counter[str]] = {}
    for record in noun.records().values():
        kept_tasks.update(record.extra["kept_tasks"])
        reasons.update(record.extra["reasons"])
        kept_clusters.update(dict(record.extra["kept_clusters"]))
        for cluster, task, count in record.extra["cluster_tasks"]:
            in_cluster.setdefault(cluster, Counter())[task] += count
    kept = sum(kept_tasks.values())
    assert kept == plan.expected, f"kept {kept} rows but planned {plan.expected}"
    names = sorted(tasks, key=lambda name: (-tasks[name], name))
    total = sum(tasks.values())
    noun.write_table(
        "tasks.parquet",
        pa.table(
            {
                "task": pa.array(names, pa.string()),
                "rows": pa.array([tasks[n] for n in names], pa.int64()),
                "kept": pa.array([kept_tasks[n] for n in names], pa.int64()),
                "share_before": pa.array([tasks[n] / max(total, 1) for n in names], pa.float64()),
                "share_after": pa.array([kept_tasks[n] / max(kept, 1) for n in names], pa.float64()),
            }
        ),
    )
    if plan.group_column == "cluster":
        noun.write_table("clusters.parquet", _cluster_report(plan, kept_clusters, in_cluster))
    before, after = task_diversity(tasks), task_diversity(kept_tasks)
    return {
        "kept": kept,
        "target": plan.target,
        "reasons": dict(reasons),
        "effective_tasks_before": round(before.effective_tasks, 4),
        "effective_tasks_after": round(after.effective_tasks, 4),
    }


def _cluster_report(plan: Plan, kept: Counter[int], in_cluster: dict[int, Counter[str]]) -> pa.Table:
    """One row a cluster: size, what the budget looked at, quota, rows kept, its largest tasks."""
    clusters = plan.groups.to_pylist()
    tops = [top_tasks(in_cluster.get(c, {})) for c in clusters]
    columns: dict[str, pa.Array] = {
        "cluster": pa.array(clusters, pa.int64()),
        "size": pa.array(plan.size_G, pa.int64()),
        **{name: pa.array(values) for name, values in plan.report.items()},
        "quota": pa.array(plan.quota_G, pa.int64()),
        "kept": pa.array([kept[c] for c in clusters], pa.int64()),
        "top_tasks": pa.array([", ".join(f"{task} {count}" for task, count in top) for top in tops], pa.string()),
    }
    return pa.table(columns)
