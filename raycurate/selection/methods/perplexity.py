"""Perplexity: keep the rows whose answers are neither easy nor hopeless (Marion et al. 2023, as COINCIDE runs it).

    loss = -1/T sum_t ln p(y_t | image, instruction, y_<t)  over the T answer tokens,   perplexity = exp(loss)

Ranking by the loss is ranking by the perplexity. Default: the middle of the ranking, as in COINCIDE's comparison
(Table 4); `keep` = `low` or `high` for the others. Cost: one forward pass a row, shared with every method that reads
`row_scores/token_losses`. Deviations: losses are float32 (the published pipeline stores float16, which ties rows),
and a row without a finite loss is quarantined instead of scored 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.methods.by_score import ByScore, Keep, number_column


@dataclass(frozen=True, kw_only=True)
class Perplexity(ByScore):
    """Selector `perplexity`.

    Attributes:
        keep: which part of the ranking stays; the paper's is the middle.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"row_scores/token_losses"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "loss"})

    keep: Keep = "middle"

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the mean answer loss in nats a token, [N]."""
        return number_column(rows, "loss")
