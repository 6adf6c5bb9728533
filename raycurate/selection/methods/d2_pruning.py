"""D2 pruning: difficulty and diversity by messages on a neighbour graph (Maharana et al. 2024, as COINCIDE runs it).

    N(i): the k nearest rows of i by cosine;   d_ij = ||x_i - x_j||^2 = 2 - 2 cos(x_i, x_j)
    forward:  g_i = max(s_i, eps) + sum_{j in N(i)} exp(-gamma_f d_ij) max(s_j, eps)
    reverse:  take i = argmax g; for j in N(i): g_j -= g_i exp(-gamma_r d_ij); repeat

s is the area under the margin on probabilities, mean over answer tokens of p_y - max_{v != y} p_v, of one checkpoint
(high is easy), x the mean over real tokens of the last hidden layer. k = 5, gamma_r = 0.4, gamma_f = 1 in COINCIDE's
comparison (Table 4). Each pick depends on earlier picks only: one order serves every ratio.

Deviations from the public code: x has length 1 (un-normalised hidden states are so far apart that every exp(-d) is 0
and the method becomes "the easiest rows"); padding is left out of the mean; neighbours are exact up to 20,000 rows
instead of product-quantised; a missing neighbour (-1) is no neighbour instead of the last row; the argmax is the true
one (`greedy.py`). eps keeps s positive; its published value is not known.

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
class D2Pruning(OnGraph):
    """Selector `d2_pruning`.

    Attributes:
        gamma_r: how fast the reverse messages fade with distance.
        gamma_f: the same of the forward messages.
        score_by: the column of the token losses that is s.
        smallest: eps, the least s.
    """

    rank_features: ClassVar[str] = "mean_token"

    neighbours: int = 5
    gamma_r: float = 0.4
    gamma_f: float = 1.0
    score_by: Literal["aum", "el2n", "loss"] = "aum"
    smallest: float = 1e-6

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UserError(f"neighbours is {self.neighbours}; it must be at least 1 (the paper's is 5)")
        for name in ("gamma_r", "gamma_f"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    @property
    def rank_score(self) -> tuple[str, str] | None:
        """A column of the token losses."""
        return "token_losses", self.score_by

    def rank_on_graph(self, score_N: NDArray[np.float64], graph: Neighbours) -> Ordering:
        """Pass the messages; the value is g when the row was taken."""
        score_N = np.maximum(score_N, self.smallest)
        distance_NK = np.maximum(2.0 - 2.0 * graph.cosine_NK, 0.0)
        present_NK = graph.ids_NK >= 0
        forward_NK = np.where(present_NK, np.exp(-self.gamma_f * distance_NK), 0.0)
        reverse_NK = np.where(present_NK, np.exp(-self.gamma_r * distance_NK), 0.0)
        spread_N = score_N + (forward_NK * score_N[graph.ids_NK]).sum(axis=1)
        picks_N, taken_N = greedy_order(spread_N, graph.ids_NK, reverse_NK)
        return Ordering(rank_N=ranks_of(picks_N), value_N=taken_N)
