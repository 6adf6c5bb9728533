"""Small seeded data sets in the shape of real ones, for the tests of `raycurate.selection`."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.base import ClusterTable, Goal, SelectionTables
from raycurate.selection.cells import CellTable
from raycurate.selection.exact import squared_norms
from raycurate.selection.kernel import Kernel, gaussian_kernel
from raycurate.selection.keys import key_array
from raycurate.selection.local import select_rows
from raycurate.selection.mmd import rank_cluster
from raycurate.selection.transferability import transferability


def unit_features(rows: int, dim: int, seed: int, *, spread: float = 0.6, blocks: int = 1) -> NDArray[np.float16]:
    """Rows around one direction, float16; each of `blocks` equal parts has length 1 / sqrt(blocks)."""
    random = np.random.default_rng(seed)
    wide = random.normal(size=(1, blocks, dim // blocks))
    wide = wide + spread * random.normal(size=(rows, blocks, dim // blocks)) * np.linalg.norm(wide) / dim**0.5
    wide /= np.linalg.norm(wide, axis=2, keepdims=True) * blocks**0.5
    return wide.reshape(rows, dim).astype(np.float16)


def kernel_of(features: NDArray[np.floating], sigma: float) -> Kernel:
    """The kernel of some rows."""
    return gaussian_kernel(features, squared_norms(features), sigma)


def sample_keys(count: int, seed: int = 0) -> list[str]:
    """Keys like those of `samples`: 32 hex digits and an occurrence."""
    return [hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=16).hexdigest() + "-0" for row in range(count)]


@dataclass(frozen=True)
class Case:
    """A clustered data set: features, keys, labels and centroids."""

    features: NDArray[np.float16]
    keys: list[str]
    labels: NDArray[np.int64]
    centroids: NDArray[np.float32]
    block_dim: int

    def tables_and_rows(self, sigma: float) -> tuple[SelectionTables, pa.Table]:
        """What `cluster` and `rank` leave behind, computed with the package."""
        clusters = self.centroids.shape[0]
        size = np.bincount(self.labels, minlength=clusters)
        rank = np.empty(len(self.keys), dtype=np.int64)
        paper, code = np.ones(clusters), np.ones(clusters)
        key_bytes = key_array(pa.array(self.keys))
        for cluster in range(clusters):
            rows = np.flatnonzero(self.labels == cluster)
            ranking = rank_cluster(self.features[rows], key_bytes[rows], sigma=sigma)
            rank[rows] = ranking.rank_N
            paper[cluster], code[cluster] = ranking.density.paper, ranking.density.code
        by_reading = {
            reading: transferability(self.centroids, size, reading=reading, block_dim=self.block_dim)
            for reading in ("paper", "code")
        }
        table = ClusterTable(
            cluster_K=np.arange(clusters),
            size_K=size,
            transferability=by_reading,
            density={"paper": paper, "code": code},
        )
        similarity = np.einsum("nd,nd->n", self.features.astype(np.float64), self.centroids[self.labels])
        rows_table = pa.table({"key": self.keys, "cluster": self.labels, "rank": rank, "similarity": similarity})
        return SelectionTables(num_rows=len(self.keys), clusters=table), rows_table


def clustered_case(seed: int, *, rows: int = 60, clusters: int = 5, layers: int = 2, block_dim: int = 6) -> Case:
    """Clusters of random sizes around random directions; no cluster is empty."""
    random = np.random.default_rng(seed)
    labels = np.concatenate(
        [np.arange(clusters), random.choice(clusters, rows - clusters, p=_shares(random, clusters))]
    )
    random.shuffle(labels)
    dim = 2 * layers * block_dim
    features = np.empty((rows, dim), dtype=np.float16)
    for cluster in range(clusters):
        members = np.flatnonzero(labels == cluster)
        spread = float(random.uniform(0.2, 1.2))
        features[members] = unit_features(members.size, dim, seed * 100 + cluster, spread=spread, blocks=2 * layers)
    centroids = np.stack([features[labels == cluster].astype(np.float64).mean(axis=0) for cluster in range(clusters)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return Case(features, sample_keys(rows, seed), labels, centroids.astype(np.float32), block_dim)


def _shares(random: np.random.Generator, clusters: int) -> NDArray[np.float64]:
    weights = random.exponential(size=clusters) + 0.05
    return weights / weights.sum()


@dataclass(frozen=True)
class TaskedCase:
    """A clustered data set whose rows have tasks of very unequal size, with what every kind of method reads.

    Attributes:
        tables: of clusters, tasks and cells.
        by_cluster: the rows, their ranks within their cluster.
        by_cell: the same rows, their ranks within their task and cluster.
        case: features and clusters.
        tasks: task of each row.
    """

    tables: SelectionTables
    by_cluster: pa.Table
    by_cell: pa.Table
    case: Case
    tasks: list[str]


def tasked_case(seed: int, *, rows: int = 160, clusters: int = 5) -> TaskedCase:
    """One task has a cluster to itself, one is in a single cluster, one has three rows."""
    case = clustered_case(seed, rows=rows, clusters=clusters)
    tables, table = case.tables_and_rows(1.0)
    random = np.random.default_rng(seed + 1000)
    tasks = random.choice(["vqa", "ocr", "chat"], rows, p=[0.7, 0.2, 0.1]).tolist()
    for row in np.flatnonzero(case.labels == 0).tolist():
        tasks[row] = "parity"
    for row in np.flatnonzero(case.labels != 0)[:3].tolist():
        tasks[row] = "few"
    key_bytes, rank = key_array(pa.array(case.keys)), np.empty(rows, dtype=np.int64)
    counts: dict[tuple[str, int], int] = {}
    for task in sorted(set(tasks)):
        for cluster in range(clusters):
            at = np.array([i for i in range(rows) if tasks[i] == task and case.labels[i] == cluster], dtype=np.int64)
            counts[task, cluster] = at.size
            if at.size:
                rank[at] = rank_cluster(case.features[at], key_bytes[at]).rank_N
    table = table.append_column("task", pa.array(tasks, pa.string()))
    table = table.append_column("el2n", pa.array(random.choice([0.1, 0.4, 0.9, 1.2], rows)))
    table = table.append_column("loss", pa.array(random.choice([0.5, 1.0, 2.0], rows)))
    table = table.append_column(
        "loss_blind", pa.array(random.choice([0.5, 1.0, 2.0, None], rows).tolist(), pa.float64())
    )
    table = table.append_column("answer_tokens", pa.array(random.choice([1, 9], rows)))
    return TaskedCase(
        tables=replace(tables, tasks=dict(Counter(tasks)), cells=CellTable.of(counts)),
        by_cluster=table,
        by_cell=table.set_column(table.column_names.index("rank"), "rank", pa.array(rank)),
        case=case,
        tasks=tasks,
    )


def kept_keys(selector: object, tables: SelectionTables, goal: Goal, blocks: list[pa.Table]) -> set[str]:
    """The keys that a selector keeps of some blocks."""
    kept: set[str] = set()
    for rows, made in select_rows(selector, tables, goal, lambda: blocks):
        kept |= {key for key, keep in zip(rows["key"].to_pylist(), made.kept_N, strict=True) if keep}
    return kept


def in_blocks(table: pa.Table, size: int, seed: int = 0) -> list[pa.Table]:
    """The rows in another order, cut into blocks."""
    mixed = table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))
    return [mixed.slice(start, size) for start in range(0, table.num_rows, size)]
