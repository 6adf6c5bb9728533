"""Charts as SVG: shares of tasks on a log axis, a map of clusters, intervals. Pure functions of numbers.

Colours are classes that the page's style sheet gives, so that they follow light and dark and print. Every mark has a
title that says its numbers, every chart a label for those who do not see it; text is direct, there are no legends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

TOP = 30
WIDE_OPENS, NARROW_OPENS = '<div class="wide">', '</div><div class="narrow">'
BOUND = 16.0
"""Shares that are further from the fair one than this many times are drawn at the edge."""
MAP, NARROW_MAP = (1040, 560, 16), (336, 300, 9)
"""Width, height and the largest radius."""
MOST_NAME = 200
"""Characters of a name in a title; the data may have ones of any length."""
STEPS = (0.5, 1.0, 2.0)
"""Shades of the map begin at these multiples of the average part that is kept."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the parts of a chart of rows stand: names and numbers beside the marks, or above them on a narrow page."""

    width: int
    left: int
    right: int
    row: int
    beside: bool

    def height(self, count: int) -> int:
        """Of a chart of so many rows."""
        return TOP + self.row * count + 24

    def middle(self, place: int) -> int:
        """The y of the marks of a row."""
        return TOP + self.row * place + (self.row // 2 if self.beside else self.row - 12)

    def words(self, y: int, name: str, number: str) -> str:
        """Name and number of the row whose marks are at y."""
        at = y + 4 if self.beside else y - 13
        x, anchor = (self.left - 12, "end") if self.beside else (self.left, "start")
        number_x, number_anchor = (self.right + 14, "start") if self.beside else (self.right, "end")
        return (
            f'<text class="name" text-anchor="{anchor}" x="{x}" y="{at}">{escape(cut(name, 22))}</text>'
            f'<text class="number" text-anchor="{number_anchor}" x="{number_x}" y="{at}">{escape(number)}</text>'
        )

    def axis(self, ticks: Sequence[tuple[float, str, bool]], height: int, unit: str) -> str:
        """Lines at (x, name, whether it is the one that counts), and what they are in, below."""
        parts = []
        for x, name, counts in ticks:
            kind = "axis" if counts else "grid"
            parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 22}"/>')
            parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{TOP - 12}">{escape(name)}</text>')
        return "".join(parts) + f'<text class="tick" x="{self.left}" y="{height - 4}">{escape(unit)}</text>'


WIDE = Rows(width=760, left=190, right=610, row=24, beside=True)
NARROW = Rows(width=336, left=14, right=322, row=46, beside=False)


def for_both(draw: Callable[[Rows], str]) -> Markup:
    """A chart of rows for wide and for narrow pages."""
    return both(draw(WIDE), draw(NARROW))


def both(wide: str, narrow: str) -> Markup:
    """A chart drawn twice; the style sheet shows the one that fits the page."""
    return Markup(f"{WIDE_OPENS}{wide}{NARROW_OPENS}{narrow}</div>")


def wide_of(chart: Markup) -> str:
    """The form for wide pages of what `both` made."""
    return str(chart).removeprefix(WIDE_OPENS).partition(NARROW_OPENS)[0]


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

    def draw(rows: Rows) -> str:
        height = rows.height(len(bars))
        factors = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16) if rows.beside else (1 / 16, 1 / 4, 1, 4, 16)
        names = (f"{factor:g}×" if factor >= 1 else f"1/{1 / factor:g}" for factor in factors)
        places = (_log_place(factor, rows) for factor in factors)
        ticks = [(x, name, factor == 1) for x, name, factor in zip(places, names, factors, strict=True)]
        return "".join(
            [
                opened(rows.width, height, "Rows kept of each task as a multiple of its share of the budget"),
                rows.axis(ticks, height, "of the share that a stratified draw gives (log scale)"),
                *(_task_line(bar, rows.middle(place), rows) for place, bar in enumerate(bars)),
                "</svg>",
            ]
        )

    return for_both(draw)


def _task_line(bar: TaskBar, y: int, rows: Rows) -> str:
    factor = bar.kept / bar.fair if bar.fair > 0 else 1.0
    x, one = _log_place(factor, rows), _log_place(1.0, rows)
    kind = "low" if factor < 0.5 else "mark"
    title = f"{cut(bar.task, MOST_NAME)}: {bar.kept:,} of {bar.rows:,} rows, {factor:.2f} of its share {bar.fair:,.0f}"
    title += f" ({bar.note})" if bar.note else ""
    shape = f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="5"/>'
    if bar.kept == 0:
        shape = f'<path class="low" d="M{x + 7:.1f} {y - 6} L{x - 4:.1f} {y} L{x + 7:.1f} {y + 6} Z"/>'
    return (
        f"<g><title>{escape(title)}</title>{rows.words(y, bar.task, f'{bar.kept:,} of {bar.rows:,}')}"
        f'<line class="{kind}-line" x1="{one:.1f}" x2="{x:.1f}" y1="{y}" y2="{y}"/>{shape}</g>'
    )


def _log_place(factor: float, rows: Rows) -> float:
    bounded = min(max(factor, 1 / BOUND), BOUND)
    return rows.left + (rows.right - rows.left) * (math.log(bounded) + math.log(BOUND)) / (2 * math.log(BOUND))


def cluster_map(dots: Sequence[Dot], average: float, shown: frozenset[int] = frozenset()) -> Markup:
    """Clusters in two dimensions: area by rows, shade by the part that is kept; those shown are links.

    Args:
        dots: the clusters.
        average: part of all rows that is kept; the shades are multiples of it.
        shown: clusters that the page has a place of.
    """
    if not dots:
        return Markup("")
    wide, narrow = (_map(dots, average, shown, size) for size in (MAP, NARROW_MAP))
    return both(wide, narrow)


def _map(dots: Sequence[Dot], average: float, shown: frozenset[int], size: tuple[int, int, int]) -> str:
    width, height, radius_most = size
    edge = radius_most + 4
    parts = [opened(width, height, "Map of the clusters: near ones have similar features", links=bool(shown))]
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    largest = max(dot.size for dot in dots)
    for dot in sorted(dots, key=lambda each: -each.size):
        x = edge + (width - 2 * edge) * _part(dot.x, min(xs), max(xs))
        y = edge + (height - 2 * edge) * (1 - _part(dot.y, min(ys), max(ys)))
        radius = 2.0 + (radius_most - 2) * math.sqrt(dot.size / largest)
        part = dot.kept / max(dot.size, 1)
        step = 0 if dot.kept == 0 else 1 + sum(part >= bound * average for bound in STEPS)
        title = (
            f"cluster {dot.cluster}: {dot.kept:,} of {dot.size:,} rows kept ({part:.0%}); {cut(dot.label, MOST_NAME)}"
        )
        mark = f'<circle class="dot step{step}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        mark += f"<title>{escape(title)}</title></circle>"
        link = f'<a href="#cluster-{dot.cluster}" aria-label="{escape(title)}">{mark}</a>'
        parts.append(link if dot.cluster in shown else mark)
    return "".join([*parts, "</svg>"])


def _part(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)


def interval_chart(intervals: Sequence[Interval], against: str) -> Markup:
    """Differences with their intervals around zero; those that hold zero are pale."""
    if not intervals:
        return Markup("")
    ends = [abs(v) for each in intervals for v in (each.percent, each.low or 0.0, each.high or 0.0)]
    most = max(*ends, 1.0) * 1.05

    def draw(rows: Rows) -> str:
        height, zero = rows.height(len(intervals)), (rows.left + rows.right) / 2

        def place(value: float) -> float:
            return zero + value / most * (rows.right - rows.left) / 2

        ticks = [(place(at), f"{at:+.0f} %", at == 0) for at in (-most, -most / 2, 0.0, most / 2, most)]
        ticks = ticks if rows.beside else ticks[1:4]
        lines = (_interval_line(each, rows.middle(number), place, rows) for number, each in enumerate(intervals))
        label = opened(rows.width, height, f"Differences to {against} with 95 % intervals")
        return "".join([label, rows.axis(ticks, height, f"percent of the scores of {against}"), *lines, "</svg>"])

    return for_both(draw)


def _interval_line(each: Interval, y: int, place: Callable[[float], float], rows: Rows) -> str:
    sure = each.low is not None and each.high is not None and (each.low > 0 or each.high < 0)
    kind = "mark" if sure else "pale"
    shown, line = f"{each.percent:+.1f} %, no interval", ""
    if each.low is not None and each.high is not None:
        shown = f"{each.percent:+.1f} %, {each.low:+.1f} to {each.high:+.1f}"
        line = f'<line class="{kind}-line" x1="{place(each.low):.1f}" x2="{place(each.high):.1f}" y1="{y}" y2="{y}"/>'
    return (
        f"<g><title>{escape(each.name)}: {escape(shown)}</title>{rows.words(y, each.name, f'{each.percent:+.1f} %')}"
        f'{line}<circle class="{kind}" cx="{place(each.percent):.1f}" cy="{y}" r="5"/></g>'
    )


def opened(width: int, height: int, label: str, *, links: bool = False) -> str:
    """The start of a chart of this size; `label` is for those who do not see it, who find no links in an image."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {size} role="{"group" if links else "img"}" aria-label="{escape(label)}">'


def cut(text: str, chars: int) -> str:
    """A text that is at most so long."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
