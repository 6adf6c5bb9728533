"""Charts as SVG: shares of tasks on a log axis, a map of clusters, intervals. Pure functions of numbers.

Colours are classes that the page's style sheet gives, so that they follow light and dark and print. Every mark has a
title that says its numbers, every chart a label for those who do not see it; text is direct, there are no legends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROW, LEFT, WIDTH, TOP = 24, 190, 760, 30
BOUND = 16.0
"""Shares that are further from the fair one than this many times are drawn at the edge."""
MAP_WIDTH, MAP_HEIGHT = 1040, 560
STEPS = (0.5, 1.0, 2.0)
"""Shades of the map begin at these multiples of the average part that is kept."""


@dataclass(frozen=True, slots=True)
class TaskBar:
    """One task: its rows, those kept, and what its share of the budget would be."""

    task: str
    rows: int
    kept: int
    fair: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """One cluster on the map."""

    cluster: int
    x: float
    y: float
    size: int
    kept: int
    label: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference with its 95 % interval, in percent; no interval where there is no error."""

    name: str
    percent: float
    low: float | None
    high: float | None


def task_chart(bars: Sequence[TaskBar]) -> Markup:
    """Each task's kept rows as a multiple of its fair share, on a log axis; 1 is a stratified draw."""
    height = TOP + ROW * len(bars) + 24
    right = WIDTH - 120
    parts = [opened(WIDTH, height, "Rows kept of each task as a multiple of its share of the budget")]
    for factor in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16):
        x = _log_place(factor, LEFT, right)
        kind = "axis" if factor == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 22}"/>')
        name = f"{factor:g}×" if factor >= 1 else f"1/{1 / factor:g}"
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{TOP - 12}">{name}</text>')
    for place, bar in enumerate(bars):
        parts.append(_task_line(bar, TOP + ROW * place + ROW // 2, right))
    parts.append(
        f'<text class="tick" x="{LEFT}" y="{height - 4}">of the share that a stratified draw gives (log scale)</text>'
    )
    return Markup("".join([*parts, "</svg>"]))


def _task_line(bar: TaskBar, y: float, right: float) -> str:
    factor = bar.kept / bar.fair if bar.fair > 0 else 1.0
    x, one = _log_place(factor, LEFT, right), _log_place(1.0, LEFT, right)
    kind = "low" if factor < 0.5 else "mark"
    title = f"{bar.task}: {bar.kept:,} of {bar.rows:,} rows, {factor:.2f} of its share {bar.fair:,.0f}"
    title += f" ({bar.note})" if bar.note else ""
    shape = f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="5"/>'
    if bar.kept == 0:
        shape = f'<path class="low" d="M{x + 7:.1f} {y - 6} L{x - 4:.1f} {y} L{x + 7:.1f} {y + 6} Z"/>'
    return (
        f"<g><title>{escape(title)}</title>"
        f'<text class="name" text-anchor="end" x="{LEFT - 12}" y="{y + 4}">{escape(cut(bar.task, 26))}</text>'
        f'<line class="{kind}-line" x1="{one:.1f}" x2="{x:.1f}" y1="{y}" y2="{y}"/>{shape}'
        f'<text class="number" x="{right + 14}" y="{y + 4}">{bar.kept:,} of {bar.rows:,}</text></g>'
    )


def _log_place(factor: float, left: float, right: float) -> float:
    bounded = min(max(factor, 1 / BOUND), BOUND)
    return left + (right - left) * (math.log(bounded) + math.log(BOUND)) / (2 * math.log(BOUND))


def cluster_map(dots: Sequence[Dot], average: float, shown: frozenset[int] = frozenset()) -> Markup:
    """Clusters in two dimensions: area by rows, shade by the part that is kept; those shown are links.

    Args:
        dots: the clusters.
        average: part of all rows that is kept; the shades are multiples of it.
        shown: clusters that the page has a place of.
    """
    if not dots:
        return Markup("")
    parts = [opened(MAP_WIDTH, MAP_HEIGHT, "Map of the clusters: near ones have similar features")]
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    largest = max(dot.size for dot in dots)
    for dot in sorted(dots, key=lambda each: -each.size):
        x = 20 + (MAP_WIDTH - 40) * _part(dot.x, min(xs), max(xs))
        y = 20 + (MAP_HEIGHT - 40) * (1 - _part(dot.y, min(ys), max(ys)))
        radius = 2.0 + 14 * math.sqrt(dot.size / largest)
        part = dot.kept / max(dot.size, 1)
        step = 0 if dot.kept == 0 else 1 + sum(part >= bound * average for bound in STEPS)
        title = f"cluster {dot.cluster}: {dot.kept:,} of {dot.size:,} rows kept ({part:.0%}); {dot.label}"
        mark = f'<circle class="dot step{step}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        mark += f"<title>{escape(title)}</title></circle>"
        link = f'<a href="#cluster-{dot.cluster}" aria-label="{escape(title)}">{mark}</a>'
        parts.append(link if dot.cluster in shown else mark)
    return Markup("".join([*parts, "</svg>"]))


def _part(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)


def interval_chart(intervals: Sequence[Interval], against: str) -> Markup:
    """Differences with their intervals around zero; those that hold zero are pale."""
    if not intervals:
        return Markup("")
    height, right = TOP + ROW * len(intervals) + 24, WIDTH - 120
    ends = [abs(v) for each in intervals for v in (each.percent, each.low or 0.0, each.high or 0.0)]
    most = max(*ends, 1.0) * 1.05
    zero = (LEFT + right) / 2
    parts = [opened(WIDTH, height, f"Differences to {against} with 95 % intervals")]
    for at in (-most, -most / 2, 0.0, most / 2, most):
        x = zero + at / most * (right - LEFT) / 2
        kind = "axis" if at == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 22}"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{TOP - 12}">{at:+.0f} %</text>')
    for place, each in enumerate(intervals):
        y = TOP + ROW * place + ROW // 2
        parts.append(_interval_line(each, y, lambda v: zero + v / most * (right - LEFT) / 2, right))
    parts.append(f'<text class="tick" x="{LEFT}" y="{height - 4}">percent of the scores of {escape(against)}</text>')
    return Markup("".join([*parts, "</svg>"]))


def _interval_line(each: Interval, y: float, place: object, right: float) -> str:
    assert callable(place), "a scale"
    known = each.low is not None and each.high is not None
    sure = known and ((each.low or 0) > 0 or (each.high or 0) < 0)
    kind = "mark" if sure else "pale"
    shown = f"{each.percent:+.1f} %" + (f", {each.low:+.1f} to {each.high:+.1f}" if known else ", no interval")
    line = ""
    if known:
        line = f'<line class="{kind}-line" x1="{place(each.low):.1f}" x2="{place(each.high):.1f}" y1="{y}" y2="{y}"/>'
    return (
        f"<g><title>{escape(each.name)}: {escape(shown)}</title>"
        f'<text class="name" text-anchor="end" x="{LEFT - 12}" y="{y + 4}">{escape(cut(each.name, 26))}</text>'
        f'{line}<circle class="{kind}" cx="{place(each.percent):.1f}" cy="{y}" r="5"/>'
        f'<text class="number" x="{right + 14}" y="{y + 4}">{each.percent:+.1f} %</text></g>'
    )


def opened(width: int, height: int, label: str) -> str:
    """The start of a chart of this size; `label` is for those who do not see it."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">'


def cut(text: str, chars: int) -> str:
    """A text that is at most so long."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
