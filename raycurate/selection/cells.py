"""Cells: the rows of one task in one cluster, the finest groups that rows are counted by.

A table of cells has as many rows as there are pairs (task, cluster) that occur: at most one for each row of the
dataset, in practice a few for each cluster. Cost of finding the cells of N rows: a sort of the block's tasks and one
binary search a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CellCounts = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class CellTable:
    """One row a cell, sorted by task and cluster.

    Attributes:
        tasks: names of the tasks, sorted.
        task_C: position of each cell's task in `tasks`, int64 [C].
        cluster_C: cluster of each cell, int64 [C].
        size_C: rows, int64 [C].
    """

    tasks: tuple[str, ...]
    task_C: NDArray[np.int64]
    cluster_C: NDArray[np.int64]
    size_C: NDArray[np.int64]

    @staticmethod
    def of(counts: CellCounts) -> CellTable:
        """The table of some counts by (task, cluster); those of no rows are left out."""
        held = sorted((task, cluster, rows) for (task, cluster), rows in counts.items() if rows)
        tasks = tuple(sorted({task for task, _, _ in held}))
        place = {task: number for number, task in enumerate(tasks)}
        columns = np.array([(place[task], cluster, rows) for task, cluster, rows in held], dtype=np.int64)
        task_C, cluster_C, size_C = columns.reshape(-1, 3).T
        return CellTable(tasks, task_C, cluster_C, size_C)

    @staticmethod
    def from_table(table: pa.Table) -> CellTable:
        """The cells of a table that `to_table` made."""
        rows = zip(*(table[name].to_pylist() for name in ("task", "cluster", "size")), strict=True)
        return CellTable.of({(task, cluster): size for task, cluster, size in rows})

    def to_table(self) -> pa.Table:
        """Task, cluster and size of each cell."""
        names = [self.tasks[task] for task in self.task_C.tolist()]
        return pa.table(
            {"task": pa.array(names, pa.string()), "cluster": pa.array(self.cluster_C), "size": pa.array(self.size_C)}
        )

    @property
    def task_rows(self) -> dict[str, int]:
        """Rows of each task that are in a cell."""
        sums = np.bincount(self.task_C, weights=self.size_C, minlength=len(self.tasks))
        return dict(zip(self.tasks, sums.astype(np.int64).tolist(), strict=True))

    def index_of(self, rows: pa.Table) -> NDArray[np.int64]:
        """The cell of each row by its columns `task` and `cluster`, -1 for a row of none, int64 [N]."""
        task_N = pc.fill_null(pc.index_in(rows["task"], value_set=pa.array(self.tasks, pa.string())), -1).to_numpy()
        cluster_N = pc.fill_null(rows["cluster"].cast(pa.int64()), -1).to_numpy()
        if not self.size_C.size:
            return np.full(rows.num_rows, -1, dtype=np.int64)
        width = max(int(self.cluster_C.max()), int(cluster_N.max(initial=0))) + 1
        code_C = self.task_C * width + self.cluster_C
        known_N = (task_N >= 0) & (cluster_N >= 0)
        code_N = np.where(known_N, task_N.astype(np.int64) * width + cluster_N, -1)
        place_N = np.minimum(np.searchsorted(code_C, code_N), code_C.size - 1)
        return np.where(code_C[place_N] == code_N, place_N, -1)


def count_cells(rows: pa.Table) -> list[tuple[str, int, int]]:
    """Task, cluster and count of the cells of a block, without rows of no cluster."""
    known = rows.select(["task", "cluster"]).filter(rows["cluster"].is_valid())
    made = known.group_by(["task", "cluster"]).aggregate([([], "count_all")])
    columns = (made[name].to_pylist() for name in ("task", "cluster", "count_all"))
    return list(zip(*columns, strict=True))


def add_counts(parts: Iterable[Iterable[tuple[str, int, int]]]) -> dict[tuple[str, int], int]:
    """The counts of all blocks, in any order."""
    total: dict[tuple[str, int], int] = {}
    for part in parts:
        for task, cluster, rows in part:
            total[task, cluster] = total.get((task, cluster), 0) + rows
    return total
