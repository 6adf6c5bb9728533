"""Make a selector's plan from blocks of rows, and run it in this process: the reference for the `select` stage.

`each_block` calls a function with every block of rows; a pass of the plan is one such call, and one block is held at a
time. The blocks may come in any order and any division, but must be the same rows each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from raycurate.selection.base import (
    Decisions,
    EachBlock,
    Goal,
    Plan,
    PlansByCounting,
    RowOrder,
    SelectionTables,
    Selector,
)
from raycurate.selection.threshold import CutRequest, CutSummary, find_cuts, merge_summaries, summarize

Blocks = Callable[[], Iterable[pa.Table]]


def make_plan(selector: Selector, tables: SelectionTables, goal: Goal, each_block: EachBlock) -> Plan:
    """Plan, and find the cuts where the method needs them."""
    if isinstance(selector, PlansByCounting):
        return selector.plan_by_counting(tables, goal, each_block)
    plan = selector.plan(tables, goal)
    return with_cuts(plan, lambda rows: selector.order(plan, rows), each_block)


def with_cuts(plan: Plan, order: Callable[[pa.Table], RowOrder], each_block: EachBlock) -> Plan:
    """Find the exact boundaries of a plan that needs them, by counting in every block and adding up."""
    if not plan.needs_cut:
        return plan

    def ask(request: CutRequest) -> CutSummary:
        merged: CutSummary | None = None
        for part in each_block(lambda rows: summarize(request, order(rows))):
            merged = part if merged is None else merge_summaries([merged, part])
        assert merged is not None, "there is at least one block"
        return merged

    return find_cuts(plan, ask)


def select_rows(
    selector: Selector, tables: SelectionTables, goal: Goal, blocks: Blocks
) -> Iterator[tuple[pa.Table, Decisions]]:
    """Yield each block with its decisions."""
    plan = make_plan(selector, tables, goal, lambda function: (function(rows) for rows in blocks()))
    for rows in blocks():
        yield rows, selector.decide(plan, rows)
