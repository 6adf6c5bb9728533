"""The groups whose rows ``rank`` orders together, and what of them is ordered on its own.

A group is a cluster, a cell (the rows of one task in one cluster), a task, or all rows. Cells are counted first, one
step a shard over keys, tasks and clusters; a task is a cell of one cluster that holds everything. A group above
``max_rows`` is ordered in hashed chunks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import RankConfig
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun
from raycurate.selection.cells import CellTable, add_counts, count_cells
from raycurate.selection.chunks import chunk_of, num_chunks
from raycurate.selection.keys import key_array
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import resumable_steps
from raycurate.stages.ranking.inputs import RankInputs

NO_LIMIT = 2**62
NO_CLUSTER = 0


@dataclass(frozen=True, slots=True)
class Units:
    """What is ranked on its own: every group, or every chunk of a large one. Unit ids follow the groups.

    Attributes:
        first_G: id of each group's first unit, int64 [G].
        chunks_G: number of chunks of each group, int64 [G].
    """

    first_G: np.ndarray
    chunks_G: np.ndarray

    @staticmethod
    def of(size_G: np.ndarray, max_rows: int) -> Units:
        """Units of groups of these sizes."""
        chunks_G = np.array([num_chunks(int(size), max_rows) for size in size_G], dtype=np.int64)
        return Units(np.concatenate([[0], np.cumsum(chunks_G)[:-1]]).astype(np.int64), chunks_G)

    @property
    def count(self) -> int:
        """Units in all."""
        return int(self.chunks_G.sum())

    def group_of(self, unit: int) -> int:
        """The group of a unit."""
        return int(np.searchsorted(self.first_G, unit, side="right")) - 1

    def unit_of_rows(self, group_N: np.ndarray, keys_N: np.ndarray) -> np.ndarray:
        """The unit of each row, int64 [N]."""
        unit_N = self.first_G[group_N].copy()
        for group in np.unique(group_N[self.chunks_G[group_N] > 1]):
            rows = np.flatnonzero(group_N == group)
            unit_N[rows] += chunk_of(keys_N[rows], int(self.chunks_G[group]))
        return unit_N


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one ranking.

    Attributes:
        size_G: rows of each group, int64 [G].
        units: what is ranked on its own.
        cells: the groups, where they are cells.
        clustered: whether a group lies in one cluster.
    """

    size_G: np.ndarray
    units: Units
    cells: CellTable | None
    clustered: bool

    @staticmethod
    def of(noun: Noun, inputs: RankInputs, config: RankConfig, features: Manifest, *, in_chunks: bool) -> Groups:
        """The groups of what is read; cells are counted, in steps that `noun` keeps."""
        max_rows, cells = config.max_rows if in_chunks else NO_LIMIT, None
        if inputs.clusters is None and inputs.samples is not None:
            tasks = required(inputs.samples).metrics["tasks"]
            cells = CellTable.of({(task, NO_CLUSTER): rows for task, rows in tasks.items()})
            size_G = cells.size_C
        elif inputs.clusters is None:
            size_G = np.array([features.rows_out], dtype=np.int64)
        elif inputs.samples is not None:
            cells = _count(noun, inputs, config, features)
            size_G = cells.size_C
        else:
            size_G = inputs.clusters.read_table("centroids.parquet", columns=["size"])["size"].to_numpy()
        return Groups(size_G, Units.of(size_G, max_rows), cells, inputs.clusters is not None)

    def of_rows(
        self, inputs: RankInputs, shard: int, keys: pa.ChunkedArray, clusters: pa.ChunkedArray | None
    ) -> np.ndarray:
        """The group of each row of a shard by its cluster, int64 [N]; None where there are no clusters."""
        if clusters is None:
            clusters = pa.chunked_array([pa.array(np.full(len(keys), NO_CLUSTER, dtype=np.int32))])
        if self.cells is None:
            return np.zeros(len(keys), dtype=np.int64) if not self.clustered else clusters.to_numpy()
        return self.cells.index_of(pa.table({"task": inputs.tasks_of(shard, keys), "cluster": clusters}))

    def unit_of_rows(
        self, inputs: RankInputs, shard: int, rows: pa.Table, clusters: pa.ChunkedArray | None
    ) -> np.ndarray:
        """The unit of each row of a shard, int64 [N]; None where there are no clusters."""
        return self.units.unit_of_rows(self.of_rows(inputs, shard, rows["key"], clusters), key_array(rows["key"]))

    def cluster_of(self, unit: int) -> int | None:
        """The cluster of a unit; None where all rows are one group."""
        if not self.clustered:
            return None
        group = self.units.group_of(unit)
        return group if self.cells is None else int(self.cells.cluster_C[group])


def _count(noun: Noun, inputs: RankInputs, config: RankConfig, features: Manifest) -> CellTable:
    """The cells of all rows."""
    count = functools.partial(_count_shard, inputs)
    steps = resumable_steps(noun, "cells", count, [()] * features.shards, num_cpus=0.5, max_tasks=config.max_tasks)
    return CellTable.of(add_counts([tuple(cell) for cell in counted["cells"]] for _, counted in steps))


def _count_shard(inputs: RankInputs, shard: int) -> dict[str, Any]:
    """Task: the cells of one shard."""
    assert inputs.clusters is not None, "cells are of clusters"
    assigned = inputs.clusters.read_part(shard, ["key", "cluster"])
    rows = pa.table({"task": inputs.tasks_of(shard, assigned["key"]), "cluster": assigned["cluster"]})
    return {"cells": count_cells(rows)}
