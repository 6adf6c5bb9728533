"""ICONS: the rows that most targets count among their most influential ones (Wu et al., 2501.00654v4).

    I(i, t) = mean over v in t of cos(g_i, g_v)                                                       `influence.py`
    votes_i = number of targets t for which I(i, t) is among the largest part p of all rows            most votes kept

p = `vote_share`, 0.2 in the paper. Votes are small whole numbers, so most of a cut runs through one large group of
ties: the program breaks them by the place in the file; here the larger max over t of I(i, t) comes first, then the
lower key.

Targets and gradients as in `less`, with its deviations: the paper takes the plain gradient at one checkpoint (step 500
of a LoRA finetune), 5,120 numbers, of all parameters that are trained. One of its targets, MME, counts by the largest
of its 13 parts, which is what targets of their own and `less` do.

Cost: as `less`, and a partition of N numbers for each target. Limits: as `less`; in a table of others it lost to a
random draw of 2.6 M rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.influence import votes
from raycurate.selection.methods.by_targets import ByTargets
from raycurate.selection.ranked import Ordering, ranks_of


@dataclass(frozen=True, kw_only=True)
class Icons(ByTargets):
    """Selector `icons`.

    Attributes:
        vote_share: part of all rows that each target votes for.
    """

    rank_features: ClassVar[str] = "gradients"
    rank_likeness: ClassVar[Literal["nearest", "mean"]] = "mean"
    rank_options: ClassVar[tuple[str, ...]] = ("targets", "vote_share")

    vote_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.vote_share <= 1:
            raise UserError(f"vote_share is {self.vote_share}; it must be above 0 and at most 1 (the paper's is 0.2)")

    def rank_by_targets(self, similarity_NT: NDArray[np.float64]) -> Ordering:
        """Order all rows; the value is the number of votes."""
        votes_N = votes(similarity_NT, self.vote_share)
        order_N = np.lexsort((-similarity_NT.max(axis=1), -votes_N))
        return Ordering(rank_N=ranks_of(order_N), value_N=votes_N.astype(np.float64))
