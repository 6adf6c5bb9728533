"""One holder's share of the rows: its labels, and its exact sums per cluster.

A partition reads its rows block by block from a ``RowSource`` and holds 4 bytes a row itself. The arithmetic in a
block does not depend on where the block starts, so any split of the rows into partitions gives the same totals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from raycurate.clustering.screening import Screen
from raycurate.clustering.sums import ClusterSums

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
        self.totals = ClusterSums(num_clusters, source.dim, device)
        self._prepared: torch.Tensor | None = None

    def step(self, screen: Screen) -> int:
        """Assign every row, bring the sums up to date; return how many rows changed their cluster."""
        moved = 0
        for start, rows_ND in self.source.blocks(self.block_rows):
            prepared_ND = self._prepare(rows_ND, screen.dtype)
            before_N = self.labels_N[start : start + rows_ND.shape[0]].long()
            after_N = screen.assign(rows_ND, prepared_ND)
            changed_N = (after_N != before_N).nonzero().ravel()
            moved += len(changed_N)
            values_ND = prepared_ND if screen.dtype is torch.float32 else rows_ND
            if len(changed_N) < rows_ND.shape[0]:
                values_ND = values_ND.index_select(0, changed_N)
            self.totals.move(values_ND, before_N[changed_N], after_N[changed_N], self.source.largest)
            self.labels_N[start : start + rows_ND.shape[0]] = after_N.int()
        return moved

    def _prepare(self, rows_ND: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The rows in the screen's type, in a buffer that is used again: fresh pages cost more than the conversion."""
        if self._prepared is None or self._prepared.dtype is not dtype:
            self._prepared = torch.empty((self.block_rows, rows_ND.shape[1]), dtype=dtype, device=self.device)
        return self._prepared[: rows_ND.shape[0]].copy_(rows_ND)
