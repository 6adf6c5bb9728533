"""Visual gain: in each cell, the rows whose answers the image helps to tell.

    g_i    = loss_blind_i - loss_i            means over the answer's tokens, without and with the image
    g'_i   = g_i n_i / (n_i + shrink)         n answer tokens; shrink 4: a gain of few tokens is noise
    cell   = the rows of one task in one cluster; quotas by size (`cell_plan.py`): the same part of every cell
    kept   = the first rows of each cell: g' > 0 descending, then rows of text alone by seeded hash, then g' <= 0

exp(g) is DICS's visual information gain, the same order. Sources: VisNec (arXiv 2603.01195: the same part of every
cluster, rows with g <= 0 are removed), the gain of MAGIC (2605.26004) and of PVI. `only_gain` removes rows with g <= 0
as VisNec does; otherwise they are the last of their cell, so that every budget can be met. Removed rows count for the
share of their task all the same.

Deviations: cells are those of a task in a cluster, not clusters alone: a loss without the image is of an input that no
model was trained on, and compares within a kind of question only. The shrinking is this engine's (`shrink` 0 is none).
A row of text alone has no gain; it comes where a gain of zero would, by hash.

Not here, since neither can be done exactly: MAGIC's grounding score needs attention weights, which the fused attention
never holds, and its robust norm is not defined in the paper; its neuron buckets need the activations of four layers'
feed-forward parts over the answer's tokens, which no pass here keeps, and its layers are given for one model only.

Cost: one forward pass a row and about 0.2 of one more without the image, shared with every method that reads
`row_scores/token_losses` (`blind`, on by default). Limits: it knows nothing of look-alikes, beyond the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.base import EachBlock, Goal, Plan, SelectionTables, order_word
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.methods.by_score import number_column
from raycurate.selection.methods.in_cells import InCells

BETWEEN = np.uint64(0x7FF0_0000_0000_0000)
"""Words from here up to that of zero are of negative numbers nearer to zero than any gain."""


@dataclass(frozen=True, kw_only=True)
class VisualGain(InCells):
    """Selector `visual_gain`.

    Attributes:
        shrink: tokens that are added to the answer's in the divisor; 0 for the plain gain.
        only_gain: rows that gain nothing are never kept, as in VisNec; the result may then be smaller than asked.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"clusters", "row_scores/token_losses"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "task", "cluster", "loss", "loss_blind", "answer_tokens"})

    shrink: float = 4.0
    only_gain: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.shrink) and self.shrink >= 0):
            raise UserError(f"shrink is {self.shrink}; it must be 0 (the plain gain) or a positive number of tokens")

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
        """As of any method by cells.

        Raises:
            UserError: no row has a gain.
        """
        if not any(each_block(_has_gain)):
            raise UserError(
                "no row has a loss without its image, so none has a gain: run `raycurate score` with blind=true on "
                "rows that have images"
            )
        return super().plan_by_counting(tables, goal, each_block)

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return g', [N]; NaN for a row without an image or without a score."""
        tokens_N = number_column(rows, "answer_tokens")
        gain_N = number_column(rows, "loss_blind") - number_column(rows, "loss")
        return gain_N * (tokens_N / (tokens_N + self.shrink))

    def takes_part(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Rows with a loss and a cluster; with `only_gain` only those that gain, and those of text alone."""
        scored_N = np.isfinite(number_column(rows, "loss")) & pc.is_valid(rows["cluster"]).to_numpy()
        return scored_N & ~(self.score(rows) <= 0) if self.only_gain else scored_N

    def why_not(self, rows: pa.Table) -> NDArray[np.str_]:
        """Return `no_gain` for a row that has a score, [N]."""
        return np.where(np.isfinite(self.score(rows)), "no_gain", "no_score")

    def words(self, plan: Plan, rows: pa.Table) -> NDArray[np.uint64]:
        """Return the order of g', descending; rows of text alone between positive and other gains, [N]."""
        gain_N = self.score(rows)
        hash_N = key_hashes(key_array(rows["key"]), seed=plan.goal.seed, purpose="draw")
        return np.where(np.isnan(gain_N), BETWEEN + (hash_N >> np.uint64(12)), order_word(-gain_N))


def _has_gain(rows: pa.Table) -> bool:
    return rows["loss_blind"].null_count < rows.num_rows
