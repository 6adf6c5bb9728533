"""SemDeDup: drop the rows that a harder row of their cluster already says (Abbas et al. 2023, as COINCIDE runs it).

    order the rows of a cluster by cosine to the centroid, ascending (the hardest first, ties by key)
    M_j = max over earlier rows i of cos(x_i, x_j),   -1 for the first row
    keep the rows with the smallest M_j over all clusters

x is the last token's embedding in the last hidden layer (`last_token`). The published rule removes rows with
M_j > 1 - eps and tunes eps by hand for each ratio; keeping the smallest M_j is that rule at the eps that meets the
budget exactly, so there is no eps here. COINCIDE's comparison takes K = 10,000 for LLaVA-1.5 and 5,000 for
Vision-Flan (Table 4).

Deviations from the public code: the embedding is of the last real token (with right padding the code reads a pad for
most rows); no rows are cut off in the order of cluster ids to meet the budget, which drops the last clusters whole;
cosines are exact float64. Kept from it: a row is compared with all earlier rows, removed ones included.

Cost: n^2 D FLOP for a cluster of n rows. Memory: 2 n D bytes for its rows and 8 MB for a tile of cosines; a cluster
is never split, since a duplicate in another part would not be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.selection.exact import TILE_ROWS, blocks, dots, squared_norms
from raycurate.selection.methods.by_score import ByScore, Keep, number_column
from raycurate.selection.ranked import Grouping, GroupRows, Ordering, ranks_of


@dataclass(frozen=True, kw_only=True)
class SemDeDup(ByScore):
    """Selector `semdedup`; `keep` is not meant to be changed."""

    needs: ClassVar[frozenset[str]] = frozenset({"ranking", "clusters/last_token"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "value"})
    rank_grouping: ClassVar[Grouping] = "cluster"
    rank_features: ClassVar[str] = "last_token"
    rank_score: ClassVar[tuple[str, str] | None] = None

    keep: Keep = "low"

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the rows twice (sorting copies them)."""
        return 4 * dim

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Measure M_j; the rank is by (M_j, key)."""
        by_key_N = np.argsort(rows.keys_N, kind="stable")
        hardest_N = by_key_N[np.argsort(rows.similarity_N[by_key_N], kind="stable")]
        value_N = np.empty(rows.keys_N.shape[0])
        value_N[hardest_N] = nearest_earlier(rows.features_ND[hardest_N])
        order_N = by_key_N[np.argsort(value_N[by_key_N], kind="stable")]
        return Ordering(rank_N=ranks_of(order_N), value_N=value_N)

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return M_j, [N]."""
        return number_column(rows, "value")


def nearest_earlier(rows_ND: NDArray[np.float16]) -> NDArray[np.float64]:
    """Return the largest cosine of each row to a row before it, [N]; -1 for the first."""
    length_N = np.sqrt(squared_norms(rows_ND))
    length_N[length_N == 0] = 1.0
    count = rows_ND.shape[0]
    largest_N = np.full(count, -1.0)
    for columns in blocks(count, TILE_ROWS):
        for earlier in blocks(columns.stop, TILE_ROWS):
            cosine = dots(rows_ND[earlier], rows_ND[columns])
            cosine /= length_N[earlier, None] * length_N[columns]
            if earlier.start == columns.start:
                cosine[np.tril_indices_from(cosine)] = -1.0
            np.maximum(largest_N[columns], cosine.max(axis=0), out=largest_N[columns])
    return largest_N
