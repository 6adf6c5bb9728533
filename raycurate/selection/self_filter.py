"""Self-Filter, second stage: the hardest rows first, their look-alikes made easier (Chen et al. 2024, 2402.12501).

    N(i): the k nearest rows of i by cosine of CLIP features [image ; text]
    take i = argmax difficulty; for j in N(i): difficulty_j -= gamma * difficulty_i * cos(i, j)^2; repeat

k = 10, gamma = 1 in COINCIDE's comparison (Table 4). Each pick depends on earlier picks only: one order serves every
ratio.

The first stage of the method learns the difficulty: a linear score-net on the frozen CLIP features is trained together
with the target model and weighs its loss; difficulty is minus the learned score (`training/score_net.py`). `raycurate
finetune RUN --selection none --score-net clip` does that and writes `row_scores/score_net`, which is read by default.
Other sources: `given`, numbers of your own (`raycurate score RUN --given FILE`), or a column of the token losses
(`loss`, `el2n`) as a stand-in without training, which is then not the published method.

Deviation from the public code: the k neighbours are the nearest of all rows, found once; the code looks for the k
nearest rows that are left at every pick, which scans all N. Where neighbours have been taken, fewer rows are made
easier.

Cost: 2 N^2 D FLOP for the graph (less beyond 20,000 rows, `neighbours.py`), N k log N for the order. Memory: global.
All features and the graph (10 N D + 12 N k bytes) must fit in one task's node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.by_score import ByScore, Keep, number_column
from raycurate.selection.greedy import greedy_order
from raycurate.selection.neighbours import EXACT_ROWS, bytes_per_row, nearest_neighbours
from raycurate.selection.ranked import Grouping, GroupRows, Ordering, ranks_of


@dataclass(frozen=True, kw_only=True)
class SelfFilter(ByScore):
    """Selector `self_filter`; `keep` is not meant to be changed.

    Attributes:
        neighbours: k of the graph.
        gamma: how much easier a look-alike becomes.
        difficulty: where the difficulty comes from, see the module.
        exact_rows: most rows for which the neighbours are exact.
    """

    keep: Keep = "low"
    neighbours: int = 10
    gamma: float = 1.0
    difficulty: Literal["score_net", "given", "loss", "el2n"] = "score_net"
    exact_rows: int = EXACT_ROWS

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UserError(f"neighbours is {self.neighbours}; it must be at least 1 (the paper's is 10)")
        if not (np.isfinite(self.gamma) and self.gamma >= 0):
            raise UserError(f"gamma is {self.gamma}; it must be 0 or more (the paper's is 1)")

    @property
    def needs(self) -> frozenset[str]:
        """Its own ranking."""
        return frozenset({"ranking"})

    @property
    def columns(self) -> frozenset[str]:
        """Key and place in the order."""
        return frozenset({"key", "rank"})

    @property
    def rank_grouping(self) -> Grouping:
        """All rows together."""
        return "all"

    @property
    def rank_features(self) -> str:
        """CLIP embeddings of image and instruction."""
        return "clip"

    @property
    def rank_score(self) -> tuple[str, str] | None:
        """The learned or given difficulty, or a column of the token losses."""
        if self.difficulty in ("score_net", "given"):
            return (self.difficulty, "difficulty")
        return ("token_losses", self.difficulty)

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the bytes of the graph's search and of the sorted rows."""
        return 2 * dim + bytes_per_row(dim, self.neighbours)

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Take the hardest, again and again; the value is the difficulty when the row was taken."""
        by_key_N = np.argsort(rows.keys_N, kind="stable")
        graph = nearest_neighbours(rows.features_ND[by_key_N], self.neighbours, exact_rows=self.exact_rows)
        weight_NK = self.gamma * graph.cosine_NK**2
        picks_N, taken_N = greedy_order(rows.score_N[by_key_N], graph.ids_NK, weight_NK)
        value_N = np.empty_like(taken_N)
        value_N[by_key_N] = taken_N
        return Ordering(rank_N=ranks_of(by_key_N[picks_N]), value_N=value_N)

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the place in the order, [N]."""
        return number_column(rows, "rank")
