"""A method of the user's kind, in a module that Ray workers can import."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raycurate.selection.methods.by_score import ByScore, number_column


class ImageGain(ByScore):
    """Keep the rows whose answers gain most from the image."""

    needs = frozenset({"row_scores/token_losses"})
    columns = frozenset({"key", "loss", "loss_blind"})

    def score(self, rows: pa.Table) -> np.ndarray:
        """Loss with the image minus loss without it; NaN without an image."""
        return number_column(rows, "loss") - number_column(rows, "loss_blind")
