"""The numbers of a report, read from the nouns of a run. Memory: small tables, one part of a noun at a time.

purity = sum_k max_t n_kt / N;  NMI = I(cluster; task) / sqrt(H(cluster) H(task)), over all rows of a selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raycurate.charts.marks import TaskBar
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.lineage import nouns_behind, why_stale
from raycurate.views.find import refused_parts

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """What was selected from what, how, and what it took."""

    run: str
    label: str
    method: str
    settings: dict[str, Any]
    rows: int
    kept: int
    target: int
    seconds: list[tuple[str, float]]
    refused: dict[str, int]
    sources: list[tuple[str, int, int]]
    notes: list[str]
    libraries: dict[str, str]


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """One cluster, as far as the selection has numbers of it."""

    cluster: int
    size: int
    kept: int
    quota: int | None
    transferability: float | None
    density: float | None
    top_tasks: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How clusters and tasks go together."""

    purity: float
    nmi: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One reason with some rows."""

    reason: str
    rows: int
    examples: list[dict[str, Any]] = field(default_factory=list)


def summary_of(run: Run, noun: Noun, manifest: Manifest) -> Summary:
    """The head of the report."""
    config = manifest.description["config"]
    samples = run.noun("samples", config["samples"]).require("ingest")
    shown = {k: v for k, v in config.items() if v not in (None, {}, []) and k not in ("method", "ratio", "samples")}
    return Summary(
        run=run.uri,
        label=noun.label,
        method=config["method"],
        settings={"ratio": config["ratio"], **shown},
        rows=manifest.rows_out,
        kept=int(manifest.metrics["kept"]),
        target=int(manifest.metrics["target"]),
        seconds=[(name, each.seconds) for name, each in nouns_behind(noun, manifest).items()],
        refused=dict(samples.quarantined),
        sources=_sources(samples, manifest),
        notes=[*_out_of_date(noun, manifest), *manifest.metrics.get("notes", ())],
        libraries=dict(manifest.libraries),
    )


def _sources(samples: Manifest, selection: Manifest) -> list[tuple[str, int, int]]:
    """Name, rows and kept rows of each source, the largest first; none where rows are of one."""
    kept = selection.metrics.get("kept_sources")
    if kept is None:
        return []
    found = [(name, rows, kept.get(name, 0)) for name, rows in samples.metrics.get("sources", {}).items()]
    return sorted(found, key=lambda source: (-source[1], source[0]))


def _out_of_date(noun: Noun, manifest: Manifest) -> list[str]:
    """Why the selection is not what a new one would be, and the command that makes it anew."""
    stale = why_stale(noun, manifest)
    return [] if stale is None else [f"Out of date: {stale}; {stale.remedy} makes it again."]


def most_telling(bars: Sequence[TaskBar], most: int) -> list[TaskBar]:
    """The tasks of a table with room for so many: half of them the largest, half those furthest from their share."""
    if len(bars) <= most:
        return list(bars)
    largest = list(bars[: most // 2])
    rest = sorted(bars[most // 2 :], key=lambda bar: -abs(bar.kept - bar.fair))
    return largest + rest[: most - len(largest)]


def task_bars(noun: Noun) -> list[TaskBar]:
    """The tasks of a selection, the largest first."""
    rows = noun.read_table("tasks.parquet").to_pylist()
    kept = max(sum(row["kept"] for row in rows), 1)
    return [
        TaskBar(row["task"], row["rows"], row["kept"], row["share_before"] * kept, row.get("bound") or "")
        for row in rows
    ]


def cluster_facts(noun: Noun) -> list[ClusterFacts]:
    """The clusters of a selection; none where its method has none."""
    if not noun.filesystem.get_file_info(f"{noun.folder}/clusters.parquet").is_file:
        return []
    return [
        ClusterFacts(
            cluster=row["cluster"],
            size=row["size"],
            kept=row["kept"],
            quota=row.get("quota"),
            transferability=row.get("transferability"),
            density=row.get("density"),
            top_tasks=row["top_tasks"],
        )
        for row in noun.read_table("clusters.parquet").to_pylist()
    ]


def counts_of(noun: Noun) -> Counter[tuple[int, str]]:
    """Rows of each (cluster, task) of a selection; empty without clusters."""
    counts: Counter[tuple[int, str]] = Counter()
    for record in noun.iter_records():
        for cluster, task, rows in record.extra.get("cluster_tasks", ()):
            counts[cluster, task] += rows
    return counts


def largest_tasks(counts: Mapping[tuple[int, str], int]) -> dict[int, str]:
    """The largest task of each cluster, ties by name."""
    best: dict[int, tuple[int, str]] = {}
    for (cluster, task), rows in counts.items():
        best[cluster] = min(best.get(cluster, (0, "")), (-rows, task))
    return {cluster: task for cluster, (_, task) in best.items()}


def agreement(counts: Mapping[tuple[int, str], int]) -> Agreement:
    """Purity and NMI of rows by (cluster, task)."""
    clusters, tasks, best = Counter[int](), Counter[str](), Counter[int]()
    for (cluster, task), rows in counts.items():
        clusters[cluster] += rows
        tasks[task] += rows
        best[cluster] = max(best[cluster], rows)
    total = sum(counts.values())
    joint = np.array([rows / total for rows in counts.values()])
    alone = np.array([clusters[c] / total * tasks[t] / total for c, t in counts])
    mutual = float((joint * np.log(joint / alone)).sum())
    entropies = [_entropy(list(each.values()), total) for each in (clusters, tasks)]
    scale = float(np.sqrt(entropies[0] * entropies[1]))
    return Agreement(sum(best.values()) / total, mutual / scale if scale > 0 else 0.0)


def _entropy(counts: Sequence[int], total: int) -> float:
    part_N = np.array(counts) / total
    return float(-(part_N * np.log(part_N)).sum())


def quarantine_of(run: Run, samples: str) -> list[Quarantined]:
    """Reasons of refused rows, the most frequent first, each with the first rows that have it."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    for rows in refused_parts(run.noun("samples", samples)):
        counts.update({each["values"]: each["counts"] for each in pc.value_counts(rows["reason"]).to_pylist()})
        for reason in counts:
            own = examples.setdefault(reason, [])
            if len(own) < EXAMPLES:
                own += rows.filter(pc.equal(rows["reason"], reason)).slice(0, EXAMPLES - len(own)).to_pylist()
    return [Quarantined(reason, number, examples[reason]) for reason, number in counts.most_common()]
