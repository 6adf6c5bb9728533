"""At which ratio would a selection have kept a row? The selection is planned again, the row alone is decided.

    r* = the smallest ratio, to 1/1000, at which the row is kept, by bisection between the selection's own and 1

Methods keep more rows of a group as its quota grows, and quotas grow with the ratio but for rounding, so the row stays
kept above r*. A row that is marked is kept at none. Nothing is written. Cost: about ten plans; a method that counts
reads its rows once or twice in each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyarrow.compute as pc

from raycurate.config import SelectConfig
from raycurate.run.store import Run
from raycurate.selection import build_selector
from raycurate.selection.remaining import FewRemain
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import map_here
from raycurate.stages.engine.sources import sources_of
from raycurate.stages.select import MARKED, marks_of, plan_selection, read_rows, selector_of
from raycurate.stages.selecting.kept import count_kept, kept_before
from raycurate.stages.selecting.weights import goal_of
from raycurate.stages.selecting.where import condition_of

STEP = 0.001


def keeps_at(run: Run, config: SelectConfig, key: str, shard: int) -> Callable[[float], bool]:
    """A function of the ratio: whether the selection with these settings keeps the row."""
    method = build_selector(config.method, config.options)
    samples = run.noun("samples", config.samples)
    manifest = required(samples)
    sources = sources_of(run, config, method)
    marks, condition = marks_of(run, config), condition_of(config.where, manifest)
    before = kept_before(run, config, manifest)[0]
    selector = selector_of(method, config, marked=bool(marks or condition) or before is not None)
    read = functools.lru_cache(maxsize=4)(
        functools.partial(read_rows, samples, sources, selector.columns, marks, condition, before)
    )
    kept = 0 if before is None else count_kept(read, map_here, manifest.shards, MARKED).total()
    rows = read(shard)
    own = rows.slice(pc.index(rows["key"], key).as_py(), 1)

    if own[MARKED].null_count == 0:
        return lambda _: False

    def keeps(ratio: float) -> bool:
        other = config.model_copy(update={"ratio": ratio})
        goal = goal_of(run, other, method, manifest.metrics["tasks"])
        try:
            plan, _ = plan_selection(method, selector, goal, sources, manifest, read, map_here, kept)
        except FewRemain:  # every row that is not marked would be needed
            return True
        return bool(selector.decide(plan, own).kept_N[0])

    return keeps


def first_ratio(keeps: Callable[[float], bool], ratio: float) -> float | None:
    """The smallest ratio above `ratio`, to `STEP`, that keeps the row; None where not even all rows have it."""
    if not keeps(1.0):
        return None
    low, high = ratio, 1.0
    while high - low > STEP:
        middle = (low + high) / 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
