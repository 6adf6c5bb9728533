"""Targeted: the rows most like what is to be learned, each target in its turn (RDS+, Ivison et al., arXiv 2503.01807).

    e       = sum_t t h_t / sum_t t   over the tokens t = 1 .. T of the last hidden layer, scaled to length 1
    s(i, k) = max over the validation rows v of target k of e_i . e_v
    turn    : each target takes the row of highest s(., k) that is left; then it is the next target's turn

Later tokens weigh more, so the answer counts most. A target is a task of the validation rows: ingest them under a label
of their own (`targets`, `val` by default) and score them with the same model; their order of turns is that of their
names. The one published method with an independent win over balanced random draws, for those who have such rows.

Source: the paper and its program (no licence file; built from its formulas). Deviation: ties go to the lower key. Rows
of text alone and rows with images compare alike.

Cost: one forward pass a row, shared with the token losses; 2 N V D FLOP for V validation rows, streamed by shards; the
turns in one task, which holds 24 N T bytes for T targets and no features. Limits: it narrows the data to what the
validation rows look like. Rows of the test set belong into no target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.methods.by_targets import ByTargets
from raycurate.selection.ranked import Ordering, ranks_of
from raycurate.selection.turns import take_turns


@dataclass(frozen=True, kw_only=True)
class Targeted(ByTargets):
    """Selector `targeted`."""

    rank_features: ClassVar[str] = "weighted_token"
    rank_likeness: ClassVar[Literal["nearest", "mean"]] = "nearest"

    def rank_by_targets(self, similarity_NT: NDArray[np.float64]) -> Ordering:
        """Order all rows; the value is s for the target that took the row."""
        order_N, taken_N = take_turns(similarity_NT)
        value_N = np.empty(order_N.size)
        value_N[order_N] = taken_N
        return Ordering(rank_N=ranks_of(order_N), value_N=value_N)
