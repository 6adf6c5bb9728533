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

Cost: 2 N^2 D FLOP for the graph (less beyond 20,000 rows, `neighbours.py`), in parts on the whole cluster; N k log N
for the order, in one task. Memory: global. All features, their index and the graph (10 N D + 12 N k bytes at
most) must fit in one task's node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.greedy import greedy_order
from raycurate.selection.methods.on_graph import OnGraph
from raycurate.selection.neighbours import Neighbours
from raycurate.selection.ranked import Ordering, ranks_of


@dataclass(frozen=True, kw_only=True)
class SelfFilter(OnGraph):
    """Selector `self_filter`.

    Attributes:
        gamma: how much easier a look-alike becomes.
        difficulty: where the difficulty comes from, see the module.
    """

    rank_features: ClassVar[str] = "clip"

    neighbours: int = 10
    gamma: float = 1.0
    difficulty: Literal["score_net", "given", "loss", "el2n"] = "score_net"

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UserError(f"neighbours is {self.neighbours}; it must be at least 1 (the paper's is 10)")
        if not (np.isfinite(self.gamma) and self.gamma >= 0):
            raise UserError(f"gamma is {self.gamma}; it must be 0 or more (the paper's is 1)")

    @property
    def rank_score(self) -> tuple[str, str] | None:
        """The learned or given difficulty, or a column of the token losses."""
        if self.difficulty in ("score_net", "given"):
            return (self.difficulty, "difficulty")
        return ("token_losses", self.difficulty)

    def rank_on_graph(self, score_N: NDArray[np.float64], graph: Neighbours) -> Ordering:
        """Take the hardest, again and again; the value is the difficulty when the row was taken."""
        picks_N, taken_N = greedy_order(score_N, graph.ids_NK, self.gamma * graph.cosine_NK**2)
        return Ordering(rank_N=ranks_of(picks_N), value_N=taken_N)
