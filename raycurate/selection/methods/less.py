"""LESS: the rows whose gradient points most along that of some target's validation rows (Xia et al., 2402.04333).

    s_i = max over targets t of the mean over v in t of cos(g_i, g_v)                highest kept        `influence.py`

A target is a task of the validation rows: ingest them under a label of their own (`targets`, `val` by default), then
`score --scores gradients --set also=[val]`. Gradients are the sketches of `score` (`features/gradient_sketches.py`).

Deviations: one model, the one that is given, where the paper adds up four checkpoints of a warm-up by their learning
rates; the gradient of a row is the plain one, not Adam's direction from the checkpoint's moments (the program's own
`sgd` option); of the last attention output projection (`score.gradient_layers=last`) or of all attention, not of LoRA's
parameters; a product sketch of 4,096 numbers instead of a Rademacher matrix to 8,192. Ties go to the lower key.

Cost: the sketches of all rows and of the validation rows; 2 N T D FLOP; one task that holds 24 N T bytes for T targets.
Limits: it narrows the data to what the validation rows look like; rows of the test set belong into no target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.methods.by_targets import ByTargets
from raycurate.selection.ranked import Ordering, ranks_of


@dataclass(frozen=True, kw_only=True)
class Less(ByTargets):
    """Selector `less`."""

    rank_features: ClassVar[str] = "gradients"
    rank_likeness: ClassVar[Literal["nearest", "mean"]] = "mean"

    def rank_by_targets(self, similarity_NT: NDArray[np.float64]) -> Ordering:
        """Order all rows; the value is s."""
        value_N = similarity_NT.max(axis=1)
        return Ordering(rank_N=ranks_of(np.argsort(-value_N, kind="stable")), value_N=value_N)
