"""PRISM: the images that are least like all others, once what they all share is taken out (arXiv 2502.12119, ACL 2026).

    x_i    = mean of the image's visual tokens as the decoder gets them (`features/first_layer.py`)
    r_ij   = Pearson correlation of x_i and x_j over their dimensions: each x minus its own mean, scaled to length 1
    score  = mean over all j of r_ij, i included;   lowest kept; of rows of text alone a part as large, drawn

Visual features lie in a narrow cone, so that plain cosines see the cone and not the images; Pearson's correlation
centres each of them. The mean over j is one dot product with the sum of all centred rows (`redundancy.py`): no N x N
matrix. The paper keeps about 30 %.

Source: the paper's abstract and first version; its program was not at hand, so layer and pooling are this engine's
choice, and parity with its figures is not claimed. The abstract speaks of a task's correlations: `within` `task` takes
j over the rows of i's task, and with the envelope 1,1,0 each task keeps its own lowest rows. Deviations: centred rows
are on a grid of 2^-26, so their sums are exact in any order; scores are rounded to 2^-40.

Cost: the vision tower; 2 N D FLOP twice. Memory: a part of the features. Limits: it knows nothing of the texts; rows
that share an image share a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.methods.by_image import ByImage
from raycurate.selection.ranked import Grouping
from raycurate.selection.redundancy import redundancy, unit_sum


@dataclass(frozen=True, kw_only=True)
class Prism(ByImage):
    """Selector `prism`.

    Attributes:
        within: which rows a row is compared with: `all`, or those of its `task`.
    """

    rank_options: ClassVar[tuple[str, ...]] = ("within",)
    rank_features: ClassVar[str] = "visual"
    highest_first: ClassVar[bool] = False

    within: Literal["all", "task"] = "all"

    @property
    def rank_grouping(self) -> Grouping:
        """All rows, or those of a task."""
        return self.within

    def rank_sum(self, features_ND: NDArray[Any], _length_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the sum of the centred rows."""
        return {"total": unit_sum(features_ND)}

    def rank_fit(self, total: Mapping[str, NDArray[np.float64]], count: int) -> dict[str, NDArray[np.float64]]:
        """Return the mean of the centred rows."""
        return {"mean": total["total"] / count}

    def rank_value(
        self, features_ND: NDArray[Any], _length_N: NDArray[np.float64], fitted: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return the mean correlation of each row with all rows of its group."""
        return redundancy(features_ND, fitted["mean"])
