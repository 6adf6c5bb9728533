"""CLIP score: keep the rows whose image and instruction fit best (Gadre et al. 2023, as COINCIDE runs it).

    score = cos(CLIP image embedding, CLIP text embedding of the instruction),   highest kept

A row without an image has no such score. It ranks after every row that has one, by key, so the budget is exact even
where more rows are asked for than have images; such a row's score is NaN. Cost: one CLIP pass a row and distinct
image. Limits: CLIP reads the first 77 tokens of an instruction (SigLIP 64); the score knows nothing of the answer.
Source: no public code of the comparison; built from its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.methods.by_score import ByScore, number_column


@dataclass(frozen=True, kw_only=True)
class ClipScore(ByScore):
    """Selector `clip_score`.

    Attributes:
        keep: which end of the ranking stays; the paper's is the highest.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"row_scores/clip"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "clip_score", "has_image"})

    keep: Literal["low", "high"] = "high"

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the cosine of image and instruction, [N]."""
        return number_column(rows, "clip_score")

    def takes_part(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Every row that went through CLIP, those of text alone included."""
        scored: NDArray[np.bool_] = rows.column("has_image").is_valid().to_numpy()
        return scored
