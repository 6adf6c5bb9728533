"""DICS: the rows whose answers gain most by the image, spread out over what they look like.

    VIC_i = exp(loss_blind_i - loss_i)        means over the answer's tokens; 1 for a row of text alone
    for a part p of n rows, M = round(p n):
    p <= 1/2:  farthest points (`farthest.py`), M of the 2 M rows of largest VIC
    p > 1/2:   the 2 M - n rows of largest VIC, and farthest points, n - M of the 2 (n - M) others

Distances are those of the last token's embedding in the last layer (`features/last_token`, or `--set features=` of your
own). The first point is the pool's row of largest VIC; ties go by key. Behind the M rows come the others by VIC, which
is what an envelope goes on with. The ranking depends on p, so each ratio has its own: `ranking/by-dics-0.2`.

Source: DICS (2026). Left out: the score of the question given the answer (RIC: alone worth 97.6 % where VIC alone is
worth 101.0), which takes two more passes, and its weights by part of speech (1.2 points), which need a tagger for the
language. Deviations: the mean is over the tokens of all turns, not over turns; the published start of the farthest
points is not known; no warm-up finetune of the scorer.

Cost: the passes of `visual_gain` and of the embedding, one shared forward; then at most 2 M 2 M D FLOP (2.9e14 for 20 %
of 665,000 rows of 4,096) in one task of half a node. Memory: 4 bytes a row and dimension there, refused above
`memory_gb`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.farthest import farthest_order
from raycurate.selection.methods.by_rank import ByRank
from raycurate.selection.methods.by_score import number_column
from raycurate.selection.ranked import GroupRows, Ordering, ranks_of


@dataclass(frozen=True, kw_only=True)
class Dics(ByRank):
    """Selector `dics`.

    Attributes:
        ratio: the part p that the ranking is made for; that of the selection, unless it is given.
    """

    rank_features: ClassVar[str] = "last_token"
    rank_score: ClassVar[tuple[str, str] | None] = ("token_losses", "loss")
    rank_columns: ClassVar[tuple[str, ...]] = ("loss", "loss_blind")

    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise UserError(f"ratio of method 'dics' is {self.ratio}; it must be above 0 and at most 1, as select's")

    def rank_score_of(self, scores: pa.Table) -> NDArray[np.float64]:
        """Return VIC, [N]; NaN where a row has no loss."""
        gain_N = number_column(scores, "loss_blind") - number_column(scores, "loss")
        gain_N = np.where(scores["loss_blind"].is_null().to_numpy(), 0.0 * number_column(scores, "loss"), gain_N)
        return np.exp(gain_N)

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the rows twice (sorting copies them), and what the order takes."""
        return 4 * dim + 200

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Order all rows; the value is VIC."""
        if self.ratio is None:
            raise UserError("method 'dics' ranks for one ratio: say `--set options.ratio=0.2`")
        by_key_N = np.argsort(rows.keys_N, kind="stable")
        order_N = by_key_N[np.argsort(-rows.score_N[by_key_N], kind="stable")]
        count = order_N.size
        wanted = round(self.ratio * count)
        sure = max(0, 2 * wanted - count)
        pool_P = order_N[sure : min(count, 2 * wanted)]
        spread_M = farthest_order(rows.features_ND[pool_P], wanted - sure)
        others = np.ones(pool_P.size, dtype=np.bool_)
        others[spread_M] = False
        whole_N = np.concatenate([order_N[:sure], pool_P[spread_M], pool_P[others], order_N[sure + pool_P.size :]])
        return Ordering(rank_N=ranks_of(whole_N), value_N=rows.score_N)
