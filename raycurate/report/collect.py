"""The numbers of a report, read from the nouns of a run. Memory: small tables, one part of a noun at a time.

purity = sum_k max_t n_kt / N;  NMI = I(cluster; task) / sqrt(H(cluster) H(task)), over all rows of a selection.
The map: principal components of the centroids, of at most `MAP_CLUSTERS` of the largest clusters; centroids of more
than `MAP_DIMS` numbers are first projected to so many by a seeded Gaussian matrix, which keeps distances to some 10 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raycurate.features.rows import features_of_table
from raycurate.report.charts import Dot, TaskBar
from raycurate.run.store import Manifest, Noun, Run
from raycurate.views.find import refused_rows

MAP_CLUSTERS, MAP_DIMS = 2_000, 512
EXAMPLES = 3
STEPS = ("samples", "features", "row_scores", "clusters", "ranking", "selection")


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
    tasks: int
    seconds: list[tuple[str, float]]
    refused: dict[str, int]
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
    made = [(each, found) for each in run.nouns() if (found := each.manifest()) is not None]
    seconds = [(f"{n.noun}/{n.label}", m.seconds) for step in STEPS for n, m in made if n.noun == step]
    shown = {k: v for k, v in config.items() if v not in (None, {}, []) and k not in ("method", "ratio", "samples")}
    return Summary(
        run=run.uri,
        label=noun.label,
        method=config["method"],
        settings={"ratio": config["ratio"], **shown},
        rows=samples.rows_out,
        kept=int(manifest.metrics["kept"]),
        target=int(manifest.metrics["target"]),
        tasks=len(samples.metrics["tasks"]),
        seconds=seconds,
        refused=dict(samples.quarantined),
        notes=list(manifest.metrics.get("notes", ())),
        libraries=dict(manifest.libraries),
    )


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


def agreement_of(noun: Noun) -> Agreement | None:
    """Purity and NMI of clusters against tasks; None without clusters."""
    counts: Counter[tuple[int, str]] = Counter()
    for record in noun.records().values():
        for cluster, task, rows in record.extra.get("cluster_tasks", ()):
            counts[cluster, task] += rows
    if not counts:
        return None
    return agreement(counts)


def agreement(counts: Counter[tuple[int, str]]) -> Agreement:
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


def map_of(run: Run, clusters: str | None, facts: Sequence[ClusterFacts]) -> list[Dot]:
    """Places of the largest clusters by the first two principal components of their centroids."""
    if clusters is None or not facts:
        return []
    noun = run.noun("clusters", clusters)
    if noun.manifest() is None:
        return []
    largest = sorted(facts, key=lambda each: (-each.size, each.cluster))[:MAP_CLUSTERS]
    centroids_KD = features_of_table(noun.read_table("centroids.parquet"), "centroid", np.float32)
    own_KD = np.asarray(centroids_KD[[each.cluster for each in largest]], dtype=np.float64)
    if own_KD.shape[1] > MAP_DIMS:
        rng = np.random.default_rng(0)
        own_KD = own_KD @ rng.standard_normal((own_KD.shape[1], MAP_DIMS)) / np.sqrt(MAP_DIMS)
    own_KD = own_KD - own_KD.mean(axis=0)
    left, scale, _ = np.linalg.svd(own_KD, full_matrices=False)
    places = left[:, :2] * scale[:2] if left.shape[1] > 1 else np.c_[left[:, 0] * scale[0], np.zeros(len(left))]
    places *= np.where(places[np.abs(places).argmax(axis=0), range(places.shape[1])] < 0, -1, 1)
    return [
        Dot(each.cluster, float(x), float(y), each.size, each.kept, each.top_tasks)
        for each, (x, y) in zip(largest, places, strict=True)
    ]


def quarantine_of(run: Run, samples: str) -> list[Quarantined]:
    """Reasons of refused rows, the most frequent first, each with the first rows that have it."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in refused_rows(run.noun("samples", samples)):
        counts[row["reason"]] += 1
        if len(own := examples.setdefault(row["reason"], [])) < EXAMPLES:
            own.append(row)
    return [Quarantined(reason, rows, examples[reason]) for reason, rows in counts.most_common()]
