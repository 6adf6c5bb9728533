"""The small tables that a selection's plan reads, from what `cluster` and `rank` left behind."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raycurate.run.filesystem import exists
from raycurate.selection import ClusterTable
from raycurate.selection.cells import CellTable
from raycurate.stages.engine.sources import Sources

CELLS_FILE = "cells.parquet"
CLUSTERS_FILE = "clusters.parquet"


def cluster_table(sources: Sources) -> ClusterTable | None:
    """Sizes of the clusters, with their S and D where they were ranked; None for a method that reads none."""
    grouped = sources.measured or sources.ranking or sources.clusters
    if grouped is None:
        return None
    if grouped.noun == "clusters":
        table = grouped.read_table("centroids.parquet", columns=["cluster", "size"])
        return ClusterTable(cluster_K=_int64(table, "cluster"), size_K=_int64(table, "size"))
    if not exists(grouped.filesystem, f"{grouped.folder}/{CLUSTERS_FILE}"):
        return None
    table = grouped.read_table(CLUSTERS_FILE)

    def readings(prefix: str) -> dict[str, np.ndarray]:
        names = [name for name in table.column_names if name.startswith(prefix)]
        return {name.removeprefix(prefix): table[name].to_numpy() for name in names}

    return ClusterTable(
        cluster_K=_int64(table, "cluster"),
        size_K=_int64(table, "size"),
        transferability=readings("transferability_"),
        density=readings("density_"),
    )


def cell_table(sources: Sources) -> CellTable | None:
    """Rows by task and cluster, where the rows were ranked so."""
    ranking = sources.ranking
    if ranking is None or not exists(ranking.filesystem, f"{ranking.folder}/{CELLS_FILE}"):
        return None
    return CellTable.from_table(ranking.read_table(CELLS_FILE))


def _int64(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.int64)
