"""EL2N of one sample: the mean over answer tokens of ||p_t - onehot(y_t)||_2 (Paul et al. 2021, as COINCIDE runs it).

    ||p - onehot(y)||_2 = sqrt(sum_v p_v^2 - 2 p_y + 1) = sqrt(sum_{v != y} p_v^2 + (1 - p_y)^2)

so two numbers a token are enough and no [T, V] one-hot is made. The second form is the one computed, in
`features/token_scores.py`: the first cancels where the model is sure, and is then wrong by up to 1e-8 in float64 and
3e-4 in float32. Cost: T * V, in the forward pass that all token losses share.

Selection keeps the middle of the ranking, as in COINCIDE's comparison (Table 4): `by_score.py`. Deviations from its
public code: scores are float32 (float16 ties rows), and a row without a finite score is quarantined instead of
counted as the easiest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.methods.by_score import ByScore, Keep, number_column


@dataclass(frozen=True, kw_only=True)
class El2n(ByScore):
    """Selector `el2n`.

    Attributes:
        keep: which part of the ranking stays; the paper's is the middle.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"row_scores/token_losses"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "el2n"})

    keep: Keep = "middle"

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return EL2N, [N]."""
        return number_column(rows, "el2n")
