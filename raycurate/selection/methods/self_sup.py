"""Self-Sup: keep the prototypes, the rows closest to the centroid of their cluster (Sorscher et al. 2022).

    score = 1 - cos(x, centroid of x's cluster),   lowest kept, over all clusters together

x is the mean over real tokens of the last hidden layer (`mean_token`), clustered by spherical k-means; COINCIDE's
comparison takes K = 10,000 for LLaVA-1.5 and 5,000 for Vision-Flan (Table 4). Cost: the forward pass and the
k-means; selecting is two passes over (key, similarity). Source: no public code of the comparison. Deviation from
what its neighbours do there: the mean leaves padding out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.methods.by_score import ByScore, Keep, number_column


@dataclass(frozen=True, kw_only=True)
class SelfSup(ByScore):
    """Selector `self_sup`.

    Attributes:
        keep: which part of the ranking stays; `low` is the paper's, `high` the outliers.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"clusters/mean_token"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "similarity"})

    keep: Keep = "low"

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return 1 - similarity to the centroid, [N]."""
        return 1.0 - number_column(rows, "similarity")
