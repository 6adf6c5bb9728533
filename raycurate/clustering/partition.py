"""One holder's share of the rows: its labels, and its exact sums per cluster.

A partition reads its rows block by block from a ``RowSource`` and holds 8 bytes a row itself. The arithmetic in a
block does not depend on where the block starts, so any split of the rows into partitions gives the same totals.

Rows that cannot have changed their cluster are not scored again (Hamerly, 2010, for inner products). If a row prefers
its centroid a by at least g, and every centroid k has moved by d_k since, then x.c_a - x.c_k >= g - |x| (d_a + d_k) for
all k: while that is positive the label stands. g is what the screen is sure of, so the labels stay exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from raycurate.clustering.exactness import row_blocks
from raycurate.clustering.screening import MAX_ROW_NORM, Screen
from raycurate.clustering.sums import ClusterSums

CONVERTED_ROWS = 64
DRIFT_SLACK, DRIFT_FLOOR = 1.01, 1e-6  # more than float32 can lose in a norm and in the gaps
BLOCK_BYTES = {"cpu": 48 << 20, "cuda": 512 << 20}


class RowSource(Protocol):
    """Float16 unit rows that can be read more than once."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def largest(self) -> float:
        """A bound on the magnitude of an entry, at most 1."""
        ...

    def blocks(self, max_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, float16 [n, D]) with n <= max_rows, in order, on the device that computes."""
        ...

    def take(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Float16 rows by number, in the order asked for."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows of one array in memory."""

    rows_ND: torch.Tensor
    largest: float = 1.0

    @property
    def num_rows(self) -> int:
        return self.rows_ND.shape[0]

    @property
    def dim(self) -> int:
        return self.rows_ND.shape[1]

    def blocks(self, max_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, self.num_rows, max_rows):
            yield start, self.rows_ND[start : start + max_rows]

    def take(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return self.rows_ND.index_select(0, torch.from_numpy(rows).to(self.rows_ND.device))


class Partition:
    """Labels and sums of the rows of one source."""

    def __init__(self, source: RowSource, num_clusters: int, device: torch.device, block_rows: int = 4096) -> None:
        self.source = source
        self.device = device
        self.block_rows = max(1, min(block_rows, BLOCK_BYTES[device.type] // (4 * source.dim)))
        self.labels_N = torch.full((source.num_rows,), -1, dtype=torch.int32, device=device)
        self.gaps_N = torch.zeros(source.num_rows, device=device)
        self.scored_KD: torch.Tensor | None = None
        self.totals = ClusterSums(num_clusters, source.dim, device)
        self._prepared: torch.Tensor | None = None

    def step(self, screen: Screen) -> int:
        """Assign every row, bring the sums up to date; return how many rows changed their cluster."""
        self._shrink_gaps(screen.centroids_KD)
        moved = 0
        for start, rows_ND in self.source.blocks(self.block_rows):
            open_N = (self.gaps_N[start : start + rows_ND.shape[0]] <= 0).nonzero().ravel()
            if len(open_N) < rows_ND.shape[0]:
                rows_ND = rows_ND.index_select(0, open_N)
            if len(open_N):
                moved += self._step_block(screen, rows_ND, start + open_N)
        self.scored_KD = screen.centroids_KD
        return moved

    def _step_block(self, screen: Screen, rows_ND: torch.Tensor, at_N: torch.Tensor) -> int:
        prepared_ND = self._prepare(rows_ND, screen.dtype)
        before_N = self.labels_N[at_N].long()
        after_N, self.gaps_N[at_N] = screen.nearest(rows_ND, prepared_ND)
        changed_N = (after_N != before_N).nonzero().ravel()
        values_ND = prepared_ND if screen.dtype is torch.float32 else rows_ND
        if len(changed_N) < rows_ND.shape[0]:
            values_ND = values_ND.index_select(0, changed_N)
        self.totals.move(values_ND, before_N[changed_N], after_N[changed_N], self.source.largest)
        self.labels_N[at_N] = after_N.int()
        return len(changed_N)

    def _shrink_gaps(self, centroids_KD: torch.Tensor) -> None:
        """Take off the gaps what the centroids' moves since the last step may have cost."""
        if self.scored_KD is None:
            return
        drift_K = torch.empty(centroids_KD.shape[0], device=self.device)
        for rows in row_blocks(centroids_KD.shape[0], BLOCK_BYTES[self.device.type] // (4 * centroids_KD.shape[1])):
            difference = centroids_KD[rows] - self.scored_KD[rows]
            drift_K[rows] = torch.linalg.vector_norm(difference, dim=1) * DRIFT_SLACK + DRIFT_FLOOR
        self.gaps_N -= MAX_ROW_NORM * (drift_K + drift_K.max())[self.labels_N.long()]

    def _prepare(self, rows_ND: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The rows in the screen's type, in a buffer that is used again: fresh pages cost more than the conversion."""
        if self._prepared is None or self._prepared.dtype is not dtype:
            self._prepared = torch.empty((self.block_rows, rows_ND.shape[1]), dtype=dtype, device=self.device)
        prepared_ND = self._prepared[: rows_ND.shape[0]]
        if self.device.type == "cuda" or dtype is torch.float32:
            return prepared_ND.copy_(rows_ND)
        for rows in row_blocks(rows_ND.shape[0], CONVERTED_ROWS):  # twice as fast as float16 to bfloat16 directly
            prepared_ND[rows].copy_(rows_ND[rows].float())
        return prepared_ND
