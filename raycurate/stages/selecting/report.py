"""What a selection tells of itself: rows by task, cluster and cell, and the tasks that it all but leaves out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.run.store import Noun
from raycurate.samples.quarantine import printable
from raycurate.selection import Plan
from raycurate.selection.cell_plan import CellPlan
from raycurate.selection.diversity import task_diversity, top_tasks
from raycurate.selection.enveloped import EnvelopePlan
from raycurate.selection.remaining import RemainingPlan
from raycurate.selection.shares import task_shares

STARVED = 2
"""A task is starved that keeps less than its share over this; the floor of the envelope is one over it."""
TOLD_TASKS = 3
TASK_CHARS = 80
"""Of a task's name in a line that is told."""


def write_tables(
    noun: Noun, plan: Plan, tasks: dict[str, int], open_tasks: Mapping[str, int], stayed: Counter[str]
) -> dict[str, Any]:
    """Write the tables of tasks, clusters and cells, from the shards' records; returns the manifest's numbers.

    Args:
        noun: the selection, all of whose shards are committed.
        plan: that it was made by.
        tasks: rows of each task.
        open_tasks: those that could be chosen, which shares follow.
        stayed: those that an earlier selection kept, and that stay.
    """
    if stayed:
        open_tasks = {task: rows + stayed[task] for task, rows in open_tasks.items()}
    kept_tasks: Counter[str] = Counter()
    kept_clusters: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    kept_sources: Counter[str] = Counter()
    in_cluster: dict[int, Counter[str]] = {}
    for record in noun.records().values():
        kept_tasks.update(record.extra["kept_tasks"])
        reasons.update(record.extra["reasons"])
        kept_sources.update(record.extra.get("kept_sources", {}))
        kept_clusters.update(dict(record.extra["kept_clusters"]))
        for cluster, task, count in record.extra["cluster_tasks"]:
            in_cluster.setdefault(cluster, Counter())[task] += count
    kept = sum(kept_tasks.values())
    assert kept == plan.expected + stayed.total(), f"kept {kept} rows but planned {plan.expected} and {stayed.total()}"
    shares = task_shares(open_tasks, kept, plan.goal).share
    report = _task_report(plan, tasks, kept_tasks, {t: float(s) for t, s in shares.items()})
    if open_tasks != tasks:
        marked = [tasks[name] - open_tasks[name] for name in report["task"].to_pylist()]
        report = report.append_column("marked", pa.array(marked, pa.int64()))
    noun.write_table("tasks.parquet", report)
    own = plan.alone if isinstance(plan, EnvelopePlan) else plan
    own = own.own if isinstance(own, RemainingPlan) else own
    if isinstance(own, CellPlan):
        noun.write_table("cells.parquet", own.cells.to_table().append_column("quota", pa.array(own.quota_G)))
        noun.write_table("clusters.parquet", _cluster_report(_by_cluster(own), kept_clusters, in_cluster))
    elif own.group_column == "cluster":
        noun.write_table("clusters.parquet", _cluster_report(own, kept_clusters, in_cluster))
    before, after = task_diversity(tasks), task_diversity(kept_tasks)
    metrics: dict[str, Any] = {
        "kept": kept,
        "target": plan.target + stayed.total(),
        **({"kept_before": stayed.total()} if stayed else {}),
        **({"marked": sum(tasks.values()) - sum(open_tasks.values())} if open_tasks != tasks else {}),
        "reasons": dict(reasons),
        **({"kept_sources": dict(sorted(kept_sources.items()))} if kept_sources else {}),
        "effective_tasks_before": round(before.effective_tasks, 4),
        "effective_tasks_after": round(after.effective_tasks, 4),
    }
    starved = {
        task: [kept_tasks[task], tasks[task]]
        for task in sorted(shares)
        if kept_tasks[task] < math.floor(shares[task] / STARVED)
    }
    notes = []
    if kept < metrics["target"]:
        notes.append(f"keeps {kept:,} rows, not the {metrics['target']:,} that were asked for: no more can be used")
    if starved and not isinstance(plan, EnvelopePlan):
        metrics["starved"] = starved
        notes.append(_told(starved))
    return {**metrics, "notes": notes} if notes else metrics


def _told(starved: Mapping[str, list[int]]) -> str:
    """The starved tasks in one line, those of the smallest part first."""
    worst = sorted(starved, key=lambda task: (starved[task][0] / starved[task][1], task))
    told = [
        f"{printable(task, TASK_CHARS)} keeps {starved[task][0]:,} of {starved[task][1]:,} rows"
        for task in worst[:TOLD_TASKS]
    ]
    if len(worst) > TOLD_TASKS:
        told.append(f"{len(worst) - TOLD_TASKS} more tasks keep less than half of their share")
    return f"{', '.join(told)}; --envelope keeps at least half of each task's share"


def _task_report(plan: Plan, tasks: Mapping[str, int], kept: Counter[str], shares: Mapping[str, float]) -> pa.Table:
    """One row a task: rows before and after, its share of the target, and what the envelope did to it."""
    names = sorted(tasks, key=lambda name: (-tasks[name], name))
    total, kept_in_all = max(sum(tasks.values()), 1), max(sum(kept.values()), 1)
    columns: dict[str, pa.Array] = {
        "task": pa.array(names, pa.string()),
        "rows": pa.array([tasks[n] for n in names], pa.int64()),
        "kept": pa.array([kept[n] for n in names], pa.int64()),
        "share_before": pa.array([tasks[n] / total for n in names], pa.float64()),
        "share_after": pa.array([kept[n] / kept_in_all for n in names], pa.float64()),
        "fair_rows": pa.array([shares[n] for n in names], pa.float64()),
    }
    if isinstance(plan, EnvelopePlan):
        budgets = {budget.task: budget for budget in plan.budgets}
        own = [budgets[name] for name in names]
        columns |= {
            "kept_alone": pa.array([budget.alone for budget in own], pa.int64()),
            "share_alone": pa.array([budget.alone / kept_in_all for budget in own], pa.float64()),
            "drawn": pa.array([budget.drawn for budget in own], pa.int64()),
            "bound": pa.array([budget.bound for budget in own], pa.string()),
        }
    return pa.table(columns)


def _by_cluster(plan: CellPlan) -> Plan:
    """The plan of cells, added up by cluster."""
    clusters, where_C = np.unique(plan.cells.cluster_C, return_inverse=True)

    def added(values_C: np.ndarray) -> np.ndarray:
        sums_K = np.zeros(clusters.size, dtype=np.int64)
        np.add.at(sums_K, where_C, values_C)
        return sums_K

    return Plan(
        goal=plan.goal,
        target=plan.target,
        group_column="cluster",
        groups=pa.array(clusters, pa.int64()),
        size_G=added(plan.size_G),
        quota_G=added(plan.quota_G),
    )


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
