"""Base of the methods that put all rows in one order by walking on a graph of their neighbours."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.methods.by_rank import ByRank
from raycurate.selection.neighbours import EXACT_ROWS, Neighbours, bytes_per_row
from raycurate.selection.ranked import Ordering


@dataclass(frozen=True, kw_only=True)
class OnGraph(ByRank):
    """A subclass gives `rank_features`, `rank_score` and `rank_on_graph`.

    Attributes:
        neighbours: k of the graph.
        exact_rows: most rows for which the neighbours are exact.
    """

    neighbours: int
    exact_rows: int = EXACT_ROWS

    @property
    @abstractmethod
    def rank_features(self) -> str:
        """Label of the features whose cosines make the graph."""

    @property
    @abstractmethod
    def rank_score(self) -> tuple[str, str] | None:
        """Label and column of the score at the start."""

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the bytes of the graph's search."""
        return bytes_per_row(dim, self.neighbours)

    @abstractmethod
    def rank_on_graph(self, score_N: NDArray[np.float64], graph: Neighbours) -> Ordering:
        """Order all rows."""
