"""TIVE: tasks by the size of their gradients, rows by how far they stand for their task's (Liu et al., 2403.09559v4).

    n_i = ||grad_i||                   the gradient of the row's mean answer loss            `row_scores/gradients`
    p_i = sketch(grad_i) / ||.||       `features/gradients` (`features/gradient_sketches.py`)
    v_k = mean of n_i^power over the rows of task k
    m_k = M v_k / sum_k v_k            whatever the task's size; at most what it has, the rest to the others
    s_i = mean over j in k of p_i . p_j = p_i . (mean of p_j)         two passes over the sketches, no N x N matrix
    kept: m_k rows of k drawn without replacement, the next one with probability softmax(q s_i) over those left

The draw takes the m_k largest q s_i + g_i, with g_i = -log(-log u_i) and u_i from the row's seeded hash: exact, nested
over ratios, the same for any order of rows. |s_i| <= 1, so at the published q = 0.001 no row is more than e^0.002 =
1.002 times as likely as another: as published, the value of a row does nothing, and TIVE is a stratified draw whose
budgets follow the mean gradient norm. q of 10 to 100 has an effect; infinity takes the first m_k rows by s_i.

Where this differs from the public program: it takes gradients of LoRA's parameters of a model that was finetuned on 8 %
of the rows, of all attention layers, and projects them to 8,192 numbers by a Rademacher matrix. Here they are of the
weights themselves, of the last attention output projection (`score.gradient_layers=last`) or of all attention (`all`),
in 4,096 numbers by a product sketch, and of the model that is given: give one that was finetuned on a few rows of each
task (`random` or `stratified`, `finetune`) to follow the paper. Rows are never repeated where m_k exceeds the task (the
program copies them), and no task is left out (it leaves out TextCaps). The paper calls v_k an average self-influence,
which is power 2.

Cost: see the sketches; then one pass to add up and one dot product of 4,096 numbers a row. Memory: a sum for each task.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.apportion import apportion
from raycurate.selection.base import (
    Decisions,
    EachBlock,
    Goal,
    Plan,
    RowOrder,
    SelectionTables,
    decide_by_cut,
    order_word,
)
from raycurate.selection.exact import TILE_ROWS, blocks, dots, on_grid
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.local import with_cuts
from raycurate.selection.methods.by_score import number_column
from raycurate.selection.ranked import Grouping

UNIT_BITS = 60
"""Norms are added up as multiples of 2^-60, in whole numbers: the same sum in any order."""
TaskSums = dict[str, tuple[int, int]]
"""Rows and the sum of their n^power, by task."""


@dataclass(frozen=True, kw_only=True)
class Tive:
    """Selector `tive`.

    Attributes:
        q: weight of a row's value in the draw; the published 0.001 has no effect, `inf` takes the best rows.
        power: of the norm in a task's value.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ranking", "row_scores/gradients"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "task", "value", "gradient_norm"})
    rank_grouping: ClassVar[Grouping] = "task"
    rank_features: ClassVar[str] = "gradients"
    rank_score: ClassVar[tuple[str, str] | None] = None
    rank_images: ClassVar[bool] = False
    rank_options: ClassVar[tuple[str, ...]] = ()

    q: float = 0.001
    power: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if not self.q >= 0:
            raise UserError(f"q is {self.q}; it must be 0 or more (the paper's is 0.001; 10 to 100 have an effect)")

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the bytes of a row of the part that a task reads; none holds a group."""
        return 2 * dim

    def rank_sum(self, features_ND: NDArray[Any], _length_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the sum of the sketches, [D]; exact, as they are float16."""
        total_D = np.zeros(features_ND.shape[1])
        for rows in blocks(features_ND.shape[0], TILE_ROWS):
            total_D += features_ND[rows].astype(np.float64).sum(axis=0)
        return {"sum": total_D}

    def rank_fit(self, total: Mapping[str, NDArray[np.float64]], count: int) -> dict[str, NDArray[np.float64]]:
        """Return the mean sketch, on the grid of exact products."""
        return {"mean": on_grid(total["sum"] / count)}

    def rank_value(
        self, features_ND: NDArray[Any], _length_N: NDArray[np.float64], fitted: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return s of each row, [N]."""
        values: NDArray[np.float64] = dots(features_ND, fitted["mean"][None])[:, 0]
        return values

    def takes_part(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Say which rows can be kept, bool [N]: those with a gradient."""
        finite_N = np.isfinite(number_column(rows, "value")) & np.isfinite(number_column(rows, "gradient_norm"))
        return np.asarray(finite_N, dtype=np.bool_)

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
        """Measure the tasks, divide the target among them and find their cuts.

        Raises:
            UserError: no row has a gradient.
        """
        held = _merged(each_block(self._measure))
        if not held:
            raise UserError(f"none of the {tables.num_rows:,} rows has a gradient; the quarantine folder says why")
        names = sorted(held)
        weights = [held[name][1] / (held[name][0] << UNIT_BITS) for name in names]
        sizes = [held[name][0] for name in names]
        target = goal.target(tables.num_rows)
        quotas = apportion(weights, min(target, sum(sizes)), sizes).rows
        plan = _plan(goal, target, names, sizes, quotas)
        return with_cuts(plan, lambda rows: self.order(plan, rows), each_block)

    def plan(self, tables: SelectionTables, goal: Goal) -> Plan:
        """One group: the rows of one task, whose budget needs no measure.

        Raises:
            UserError: several tasks.
        """
        if not tables.tasks or len(tables.tasks) != 1:
            raise UserError("method 'tive' measures its tasks while it plans; several of them need all of their rows")
        ((task, rows),) = tables.tasks.items()
        usable = rows if tables.num_usable is None else tables.num_usable
        target = goal.target(tables.num_rows)
        return _plan(goal, target, [task], [usable], [min(target, usable)])

    def order(self, plan: Plan, rows: pa.Table) -> RowOrder:
        """Order the rows of each task by q s + g, descending."""
        key_N, value_N = key_array(rows["key"]), number_column(rows, "value")
        place_N = value_N if math.isinf(self.q) else self.q * value_N + gumbel(key_hashes_of(key_N, plan.goal.seed))
        return RowOrder(
            group_N=np.where(self.takes_part(rows), plan.group_index(rows), -1),
            word_N=order_word(-place_N),
            key_N=key_N,
        )

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep what is drawn; the score is s."""
        order, value_N = self.order(plan, rows), number_column(rows, "value")
        made = decide_by_cut(plan, order, value_N, kept_reason="within_budget", dropped_reason="over_budget")
        reason_N = np.where(self.takes_part(rows), made.reason_N, "no_score")
        return Decisions(kept_N=made.kept_N, score_N=made.score_N, reason_N=reason_N)

    def _measure(self, rows: pa.Table) -> TaskSums:
        """Rows and sums of a block, by task."""
        own_N = self.takes_part(rows)
        values = number_column(rows, "gradient_norm")[own_N] ** self.power
        tasks = rows["task"].filter(pa.array(own_N)).to_pylist()
        sums: Counter[str] = Counter()
        for task, value in zip(tasks, values.tolist(), strict=True):
            sums[task] += int(math.ldexp(value, UNIT_BITS))
        counts = Counter(tasks)
        return {task: (count, sums[task]) for task, count in counts.items()}


def key_hashes_of(key_N: NDArray[np.bytes_], seed: int) -> NDArray[np.uint64]:
    """Return a hash of each key that no other draw uses, [N]."""
    return key_hashes(key_N, seed=seed, purpose="gumbel")


def gumbel(hash_N: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return a standard Gumbel number from each uniform hash, [N]."""
    uniform_N = ((hash_N >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact, never 0 or 1
    drawn: NDArray[np.float64] = -np.log(-np.log(uniform_N))
    return drawn


def _plan(goal: Goal, target: int, names: list[str], sizes: Iterable[int], quotas: Iterable[int]) -> Plan:
    return Plan(
        goal=goal,
        target=target,
        group_column="task",
        groups=pa.array(names, pa.string()),
        size_G=np.array(list(sizes), dtype=np.int64),
        quota_G=np.array(list(quotas), dtype=np.int64),
        needs_cut=True,
    )


def _merged(parts: Iterable[TaskSums]) -> TaskSums:
    total: TaskSums = {}
    for part in parts:
        for task, (count, value) in part.items():
            held = total.get(task, (0, 0))
            total[task] = (held[0] + count, held[1] + value)
    return total
