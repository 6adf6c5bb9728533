"""Figures of what clusters tell of tasks, and of how alike kept rows are."""

from __future__ import annotations

from collections.abc import Sequence

from raycurate.charts.curves import Ranged, range_chart
from raycurate.charts.figures import Figure
from raycurate.report.diversity import Alike, Diversity
from raycurate.report.geometry import TaskTransfer


def transfer_figure(tasks: Sequence[TaskTransfer], of: int) -> Figure:
    """S of each task, the highest first, out of so many."""
    text = (
        "Transferability of each task: the mean cosine of its rows' clusters with all clusters, and the middle 80 % of "
        "its rows. What lies high resembles much of the data."
    )
    if len(tasks) < of:
        text += f" The {len(tasks)} highest of {of:,} tasks."
    rows = [Ranged(each.task, each.mean, each.low, each.high, f"{each.mean:.3f}") for each in tasks]
    return Figure("transferability", text, range_chart(rows, text, "mean cosine with all clusters"))


def diversity_figures(found: Diversity) -> list[Figure]:
    """All rows in words, the clusters of the gallery as a chart: kept rows beside a random draw."""
    text = f"How alike two kept rows are beside two of a random draw: mean cosine. {_overall(found.overall)}"
    if found.rows < found.of:
        text += f" From {found.rows:,} of {found.of:,} rows: whole shards, drawn."
    pairs = [(cluster, each) for cluster, each in found.within.items() if _both(each) is not None]
    if not pairs:
        return [Figure("diversity", text)] if _both(found.overall) is not None else []
    rows = [
        Ranged(f"cluster {cluster}", _both(each) or 0.0, note=f"{each.kept:.3f} beside {each.all:.3f}")
        for cluster, each in sorted(pairs, key=lambda pair: (_both(pair[1]) or 0.0, pair[0]))
    ]
    text += " Within the clusters of the gallery, left of zero the kept rows are more diverse:"
    unit = "cosine of kept pairs, less that of drawn ones"
    return [Figure("diversity", text, range_chart(rows, text, unit, zero=True))]


def _both(each: Alike) -> float | None:
    return None if each.kept is None or each.all is None else each.kept - each.all


def _overall(each: Alike) -> str:
    return "" if _both(each) is None else f"Over all rows {each.kept:.3f} beside {each.all:.3f}."
