"""PreSel: of each task what a small labelled reference says, of its images the most typical (Safaei et al., CVPR 2025).

    reference = 5 % of each task, drawn (`reference.py`); it is always part of the result: its rows are labelled anyway
    w_t       = softmax_t(-d_t / T), d_t the task's mean IRS: tasks whose questions help the model most get most rows
    n_t       = w_t (M - reference), at most the free rows of the task, the rest divided among the others by weight
    clusters  = k-means of the images of each task by themselves, max(1, N_t / 100) clusters
    n_tk      = n_t in proportion to the free rows of the cluster
    kept      = the first n_tk by typicality: the mean cosine to the 5 nearest rows of the cluster

Only the reference rows need instructions: `row_scores/reference` has their IRS, all others are chosen by their images.
Whole rows are by largest remainder within what a cluster has, so no row is missing that would have to be drawn at
random in the end. A budget below the reference keeps a part of it, by its draw. Source: arXiv 2503.07591 and its
program (MIT).

Deviations. The IRS is the cheap reading: the plain reference VLM's, where the paper first finetunes it on the
reference. Images are told apart by the mean of their visual tokens behind the VLM's own tower (`visual`), where the
paper runs DINOv2. Rows of text alone, which the paper removes, are a task of their own with their share by size, drawn
by hash. k-means is spherical and exact, the same on any cluster. With an envelope each task's budget is the envelope's:
weights tell what the method takes alone, and reference rows come first in their cluster.

Cost: two forward passes for the 5 %, the vision tower for all rows; then for a task of N_t rows one k-means of
2 N_t^2 / 100 D FLOP an iteration and n^2 D FLOP for a cluster of n rows. Memory: the images' features of the largest
task, 8 D bytes a row, in one process (refused above `memory_gb`). Limits: weights do not look at the sizes of tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.apportion import apportion
from raycurate.selection.base import Decisions, EachBlock, Goal, Plan, SelectionTables
from raycurate.selection.cell_plan import CellPlan, cell_plan
from raycurate.selection.cells import CellTable, count_cells
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.local import with_cuts
from raycurate.selection.methods.by_score import number_column
from raycurate.selection.methods.in_cells import InCells
from raycurate.selection.ranked import NO_IMAGE, Grouping, GroupRows, Ordering, ranks_of
from raycurate.selection.reference import IrsSums, task_weights
from raycurate.selection.typicality import typicality

BEHIND = np.uint64(1 << 63)
"""Added to the order words of rows that come after all reference rows of their cluster."""


@dataclass(frozen=True, kw_only=True)
class Presel(InCells):
    """Selector `presel`.

    Attributes:
        temperature: T; 1 / sqrt(number of tasks) where it is not given.
        neighbours: of a row, whose mean cosine is its typicality.
        rows_per_cluster: of a task, on the average.
    """

    has_task_shares: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"ranking", "row_scores/reference"})
    columns: ClassVar[frozenset[str]] = frozenset({"key", "task", "cluster", "rank", "reference", "irs"})
    rank_grouping: ClassVar[Grouping] = "task"
    rank_features: ClassVar[str] = "visual"
    rank_score: ClassVar[tuple[str, str] | None] = None
    rank_options: ClassVar[tuple[str, ...]] = ("neighbours", "rows_per_cluster")

    temperature: float | None = None
    neighbours: int = 5
    rows_per_cluster: int = 100

    def __post_init__(self) -> None:
        if self.temperature is not None and not (np.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature is {self.temperature}; it must be a positive number (PreSel: 1/sqrt(tasks))")
        for name in ("neighbours", "rows_per_cluster"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def rank_bytes_per_row(self, dim: int) -> int:
        """Return the rows four times: sorting copies them, k-means and typicality hold a part of them as floats."""
        return 8 * dim

    def rank_clusters(self, rows: int) -> int:
        """Return the clusters of a task that has so many rows with an image."""
        return max(1, rows // self.rows_per_cluster)

    def rank_group(self, rows: GroupRows) -> Ordering:
        """Order the rows of one cluster, the most typical first; ties by key."""
        by_key_N = np.argsort(rows.keys_N, kind="stable")
        value_N = np.empty(by_key_N.size)
        value_N[by_key_N] = typicality(rows.features_ND[by_key_N], self.neighbours)
        order_N = by_key_N[np.argsort(-value_N[by_key_N], kind="stable")]
        return Ordering(rank_N=ranks_of(order_N), value_N=value_N)

    def plan_by_counting(self, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
        """Count cells, reference rows and IRS, divide the target, and find the cuts.

        Raises:
            UserError: no row takes part, none of those is of the reference, or no reference row has an IRS.
        """
        sizes: Counter[tuple[str, int]] = Counter()
        reference: Counter[tuple[str, int]] = Counter()
        parts = []
        for held, labelled, irs in each_block(self._counted):
            sizes.update({(task, cluster): rows for task, cluster, rows in held})
            reference.update({(task, cluster): rows for task, cluster, rows in labelled})
            parts.append(irs)
        cells = CellTable.of(sizes)
        if not cells.size_C.size:
            raise UserError(f"none of the {tables.num_rows:,} rows has an image's features and a reference's scores")
        keys = zip((cells.tasks[task] for task in cells.task_C.tolist()), cells.cluster_C.tolist(), strict=True)
        reference_C = np.array([reference[key] for key in keys], dtype=np.int64)
        with_images = {cells.tasks[task] for task in cells.task_C[cells.cluster_C != NO_IMAGE].tolist()}
        if with_images and not reference:
            raise UserError(
                f"none of the {int(cells.size_C.sum()):,} rows that can be kept is one of the reference, so tasks have "
                "no weights: a condition or marks leave all of the reference out. Loosen --where, leave marks aside "
                "(--ignore-marks), or score a larger part: `raycurate score RUN --scores reference --set "
                "reference_part=0.2 --replace`"
            )
        weights = task_weights(IrsSums.added(parts), with_images, self.temperature) if with_images else {}
        target = min(goal.target(tables.num_rows), int(cells.size_C.sum()))
        plan = cell_plan(tables, cells, goal, quotas(cells, reference_C, weights, target), needs_cut=True)
        return with_cuts(plan, lambda rows: self.order(plan, rows), each_block)

    def plan(self, tables: SelectionTables, goal: Goal) -> CellPlan:
        """Divide by size: what an envelope asks for, of the rows of one task.

        Raises:
            UserError: no table of cells.
        """
        if tables.cells is None:
            raise UserError("method 'presel' needs the clusters of each task's images; `raycurate rank` makes them")
        target = min(goal.target(tables.num_rows), int(tables.cells.size_C.sum()))
        return cell_plan(tables, tables.cells, goal, by_size(tables.cells.size_C, target), needs_cut=True)

    def takes_part(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Rows with a cluster that the reference's pass did not lose."""
        return pc.is_valid(rows["cluster"]).to_numpy() & pc.is_valid(rows["reference"]).to_numpy()

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the place by typicality in the cluster, [N]; NaN for a row of text alone."""
        return np.where(self._of_text(rows), np.nan, number_column(rows, "rank"))

    def words(self, plan: Plan, rows: pa.Table) -> NDArray[np.uint64]:
        """Return the order: reference rows by hash, then others by rank; rows of text alone by hash, [N]."""
        hash_N = key_hashes(key_array(rows["key"]), seed=plan.goal.seed, purpose="draw")
        rank_N = np.nan_to_num(number_column(rows, "rank")).astype(np.uint64)
        first_N = self._labelled(rows)
        return np.where(self._of_text(rows), hash_N, np.where(first_N, hash_N >> np.uint64(1), BEHIND | rank_N))

    def decide(self, plan: Plan, rows: pa.Table) -> Decisions:
        """Keep the first rows of each cluster; rows of the reference, and those of text alone, are drawn."""
        made = super().decide(plan, rows)
        by_hash_N = self.takes_part(rows) & (self._of_text(rows) | (self._labelled(rows) & made.kept_N))
        drawn_N = np.where(made.kept_N, "drawn", "not_drawn")
        reason_N = np.where(by_hash_N, drawn_N, made.reason_N)
        return Decisions(kept_N=made.kept_N, score_N=made.score_N, reason_N=reason_N)

    def _of_text(self, rows: pa.Table) -> NDArray[np.bool_]:
        return number_column(rows, "cluster") == NO_IMAGE

    def _labelled(self, rows: pa.Table) -> NDArray[np.bool_]:
        flags: NDArray[np.bool_] = pc.fill_null(rows["reference"], False).to_numpy()
        return flags & ~self._of_text(rows)

    def _counted(self, rows: pa.Table) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]], IrsSums]:
        held = rows.filter(pa.array(self.takes_part(rows)))
        return count_cells(held), count_cells(held.filter(pa.array(self._labelled(held)))), IrsSums.of(held)


def quotas(
    cells: CellTable, reference_C: NDArray[np.int64], weights: Mapping[str, float], target: int
) -> NDArray[np.int64]:
    """Return the rows that each cell keeps, int64 [C].

    Args:
        cells: of the rows that can be kept; those of text alone are in cluster `NO_IMAGE`.
        reference_C: rows of the reference in each cell.
        weights: of the tasks that have images.
        target: rows in all, at most what the cells have.
    """
    text_C = cells.cluster_C == NO_IMAGE
    both = [int(cells.size_C[~text_C].sum()), int(cells.size_C[text_C].sum())]
    of_images, of_text = apportion(both, target, both).rows
    quota_C = np.zeros(text_C.size, dtype=np.int64)
    quota_C[text_C] = by_size(cells.size_C[text_C], of_text)
    labelled = int(reference_C[~text_C].sum())
    if of_images <= labelled:
        quota_C[~text_C] = by_size(reference_C[~text_C], of_images)
        return quota_C
    quota_C[~text_C] = reference_C[~text_C]
    free_C = np.where(text_C, 0, cells.size_C - reference_C)
    free_T = np.bincount(cells.task_C, weights=free_C, minlength=len(cells.tasks)).astype(np.int64)
    weight_T = [weights.get(task, 0.0) for task in cells.tasks]
    wanted = apportion(weight_T, of_images - labelled, free_T.tolist()).rows
    for task, rows in enumerate(wanted):
        own = np.flatnonzero((cells.task_C == task) & ~text_C)
        quota_C[own] += by_size(free_C[own], rows)
    return quota_C


def by_size(size_G: NDArray[np.int64], target: int) -> NDArray[np.int64]:
    """Return whole rows in proportion to sizes, at most all of each group, int64 [G]."""
    return np.array(apportion(size_G.tolist(), target, size_G.tolist()).rows, dtype=np.int64)
