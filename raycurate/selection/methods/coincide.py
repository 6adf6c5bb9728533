"""COINCIDE: concept-skill transferability selection (EMNLP 2024, arXiv 2406.10995), Algorithm 1 from line 3.

Clusters of activation features stand for concept-skill compositions. Each gives rows by P_i = softmax(S_i /
(tau D_i)): transferable and diverse clusters give more (`transferability.py`, `density.py`, `budget.py`);
within a cluster the rows are the first of the greedy MMD order (`mmd.py`), which a stage has computed once in
full. Deciding is therefore arithmetic on small tables: `rank < quota`, whatever the temperature and the
ratio.

Where paper and program disagree both readings are options; the paper's is the default. Alternatives within a
cluster (the paper's Table 3c): `nearest` to the centroid (better at small ratios) and `random`. Cost: O(K log
K) on the driver, one comparison a row; `nearest` and `random` add 2 streaming passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import (
    ClusterTable,
    Decisions,
    Goal,
    Plan,
    RowOrder,
    SelectionTables,
    decide_by_cut,
    order_word,
    reasons,
)
from raycurate.selection.budget import Guards, Weighting, allocate, cluster_scores, size_scores
from raycurate.selection.keys import key_array
from raycurate.selection.methods.random import hash_order

Reading = Literal["paper", "code"]
ClusterOrder = Literal["mmd", "nearest", "random"]


@dataclass(frozen=True, kw_only=True)
class Coincide:
    """Selector `coincide`.

    Attributes:
        temperature: tau of the softmax; 0.1 in the paper.
        transferability: reading of S.
        density: reading of D.
        weighting: what the budget follows: `both`, an ablation (`transferability`, `density`, `equal`), or `size`, in
            proportion to the rows of a cluster, whatever the temperature.
        order: which rows of a cluster come first.
        min_cluster_keep: rows that each cluster gives at least.
        max_keep_fraction: the largest part of a cluster that may be kept.
    """

    temperature: float = 0.1
    transferability: Reading = "paper"
    density: Reading = "paper"
    weighting: Weighting = "both"
    order_by: ClusterOrder = "mmd"
    min_cluster_keep: int = 0
    max_keep_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature is {self.temperature}; it must be a positive number (COINCIDE uses 0.1)")
        self._guards()

    @property
    def needs(self) -> frozenset[str]:
        """The ranking with its cluster table; the clusters alone if neither order nor budget uses it."""
        ranked = self.order_by == "mmd" or self.weighting not in ("equal", "size")
        return frozenset({"ranking" if ranked else "clusters"})

    @property
    def columns(self) -> frozenset[str]:
        """Key, cluster and what orders the rows of a cluster."""
        by = {"mmd": {"rank"}, "nearest": {"similarity"}, "random": set[str]()}
        return frozenset({"key", "cluster"} | by[self.order_by])

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group a cluster, with its quota and how it came about.

        Raises:
            UserError: no cluster table, a reading that was not computed, or numbers that are not finite.
        """
        if tables.clusters is None:
            raise UserError("method 'coincide' needs a cluster table; run the stages up to `rank` first")
        clusters = tables.clusters
        transferability_K, density_K = self.numbers(clusters)
        target = goal.target(tables.num_rows)
        by_size = self.weighting == "size"
        given = allocate(
            size_scores(clusters.size_K) if by_size else cluster_scores(transferability_K, density_K, self.weighting),
            clusters.size_K,
            target,
            temperature=1.0 if by_size else self.temperature,
            guards=self._guards(),
        )
        return Plan(
            goal=goal,
            target=target,
            group_column="cluster",
            groups=pa.array(clusters.cluster_K, type=pa.int64()),
            size_G=clusters.size_K,
            quota_G=given.quota_K,
            report={
                "transferability": transferability_K,
                "density": density_K,
                "probability": given.probability_K,
            },
            needs_cut=self.order_by != "mmd",
        )

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order the rows of each cluster by similarity to the centroid, descending, or by seeded hash."""
        if self.order_by == "random":
            return hash_order(plan, rows)
        key_N = key_array(rows.column("key"))
        return RowOrder(group_N=plan.group_index(rows), word_N=order_word(-_column(rows, "similarity")), key_N=key_N)

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows of each cluster.

        The score is the rank (`mmd`), 1 - similarity (`nearest`), or the hash in [0, 1) (`random`).
        """
        if self.order_by == "mmd":
            return decide_by_rank(plan, rows)
        order = self.order(plan, rows)
        nearest = self.order_by == "nearest"
        score_N = 1.0 - _column(rows, "similarity") if nearest else order.word_N / 2.0**64
        return decide_by_cut(plan, order, score_N, kept_reason="within_quota", dropped_reason="over_quota")

    def _guards(self) -> Guards:
        return Guards(min_cluster_keep=self.min_cluster_keep, max_keep_fraction=self.max_keep_fraction)

    def numbers(self, clusters: ClusterTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return S and D in the readings asked for; ones where the weighting does not use them."""
        unused_K = np.ones(clusters.cluster_K.shape[0])
        wanted = (
            ("transferability", clusters.transferability, self.transferability),
            ("density", clusters.density, self.density),
        )
        found = []
        for name, tables, reading in wanted:
            if reading not in tables and self.weighting in ("both", name):
                have = ", ".join(sorted(tables)) or "none"
                raise UserError(
                    f"the cluster table has no {name} in the reading '{reading}' (it has: {have}); rank again"
                )
            found.append(tables.get(reading, unused_K))
        return found[0], found[1]


def decide_by_rank(plan: Plan, rows: pa.Table) -> Decisions:
    group_N = plan.group_index(rows)
    known_N = group_N >= 0
    rank_N = _column(rows, "rank")
    quota_N = plan.quota_G[np.maximum(group_N, 0)] if plan.quota_G.size else np.zeros(group_N.shape)
    kept_N = known_N & (rank_N < quota_N)
    return Decisions(kept_N=kept_N, score_N=rank_N, reason_N=reasons(kept_N, known_N, "within_quota", "over_quota"))


def _column(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a numeric column as float64, null as NaN."""
    values: NDArray[np.float64] = rows.column(name).cast(pa.float64()).to_numpy()
    return values
