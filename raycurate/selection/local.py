"""Run a selector over blocks of rows in this process: the reference for what the `select` stage distributes.

`blocks` is called once a pass and must yield the same rows each time, in any order and any division; one
block is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from raycurate.selection.base import Decisions, Goal, Plan, SelectionTables, Selector
from raycurate.selection.threshold import CutRequest, CutSummary, find_cuts, merge_summaries, summarize

Blocks = Callable[[], Iterable[pa.Table]]


def make_plan(selector: Selector, tables: SelectionTables, goal: Goal, blocks: Blocks) -> Plan:
    """Plan, and find the cuts where the method needs them."""
    plan = selector.plan(tables, goal)
    if not plan.needs_cut:
        return plan

    def ask(request: CutRequest) -> CutSummary:
        return merge_summaries(summarize(request, selector.order(plan, rows)) for rows in blocks())

    return find_cuts(plan, ask)


def select_rows(
    selector: Selector, tables: SelectionTables, goal: Goal, blocks: Blocks
) -> Iterator[tuple[pa.Table, Decisions]]:
    """Yield each block with its decisions."""
    plan = make_plan(selector, tables, goal, blocks)
    for rows in blocks():
        yield rows, selector.decide(plan, rows)
