"""Charts of what trainings came to: curves, rows with ranges, points. Pure functions of numbers, as in marks.py.

Each line of text stands at what it names; there are no legends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from raycurate.charts.marks import Rows, both, cut, for_both, opened

PANEL_WIDTH, PANEL_HEIGHT = 200, 62
MARGIN, BELOW, TOP = 64, 46, 24
SAME = 1e-9
"""Numbers that differ by less than this part of them are drawn as one."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Where the parts of a chart with two axes stand; names of curves behind their ends, or above them."""

    width: int
    right: int
    bottom: int
    behind: bool

    def named(self, place: tuple[float, float], name: str) -> str:
        """The name of what ends, or stands, at a place."""
        x, y = place
        if self.behind:
            return f'<text x="{x + 9:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        anchor = "end" if x > (MARGIN + self.right) / 2 else "start"
        return f'<text text-anchor="{anchor}" x="{x:.1f}" y="{max(y - 9, 12):.1f}">{escape(cut(name, 28))}</text>'


WIDE_PLOT = Plot(width=760, right=620, bottom=300, behind=True)
NARROW_PLOT = Plot(width=336, right=318, bottom=230, behind=False)

Scale = tuple[Callable[[float], float], list[tuple[float, str]]]
"""Number -> place, and the ticks with their names."""


@dataclass(frozen=True, slots=True)
class Ranged:
    """One line of a chart of rows.

    Attributes:
        name: of the line.
        value: the mark.
        low, high: the range around it; None where there is one number only.
        note: right of the line.
        strong: among the best, else pale.
        needed: what the value had to reach.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    strong: bool = True
    needed: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A curve with its name at its end."""

    name: str
    points: Sequence[tuple[float, float]]
    strong: bool = True


def range_chart(rows: Sequence[Ranged], label: str, unit: str, *, zero: bool = False, log: bool = False) -> Markup:
    """A dot for each row with its range, on one axis.

    Args:
        rows: at least one.
        label: for those who do not see it.
        unit: below the axis.
        zero: whether the axis must show 0.
        log: whether it is logarithmic around 1, for multiples.
    """
    if not rows:
        return Markup("")
    ends = [v for each in rows for v in (each.value, each.low, each.high, each.needed) if v is not None]
    ends += [0.0] if zero else [1.0] if log else []

    def draw(layout: Rows) -> str:
        place, ticks = (_log_scale if log else linear_scale)(ends, layout.left, layout.right)
        height = layout.height(len(rows))
        axis = [(place(at), name, (zero and at == 0) or (log and at == 1)) for at, name in ticks]
        axis = axis if layout.beside else _fewer(axis)
        lines = (_ranged(each, layout.middle(number), place, layout) for number, each in enumerate(rows))
        return "".join([opened(layout.width, height, label), layout.axis(axis, height, unit), *lines, "</svg>"])

    return for_both(draw)


def _fewer(ticks: Sequence[tuple[float, str, bool]]) -> list[tuple[float, str, bool]]:
    """At most four or so of them, the one that counts among these."""
    step = max(1, len(ticks) // 3)
    first = next((place for place, tick in enumerate(ticks) if tick[2]), 0) % step
    return list(ticks[first::step])


def _ranged(each: Ranged, y: int, place: Callable[[float], float], layout: Rows) -> str:
    kind = "mark" if each.strong else "pale"
    shown = f"{each.name}: {each.value:.4g}"
    line = ""
    if each.low is not None and each.high is not None:
        shown += f", {each.low:.4g} to {each.high:.4g}"
        line = f'<line class="{kind}-line" x1="{place(each.low):.1f}" x2="{place(each.high):.1f}" y1="{y}" y2="{y}"/>'
    if each.needed is not None:
        x = place(each.needed)
        shown += f", needed {each.needed:.4g}"
        line += f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"/>'
    return (
        f"<g><title>{escape(shown)}</title>{layout.words(y, each.name, each.note)}{line}"
        f'<circle class="{kind}" cx="{place(each.value):.1f}" cy="{y}" r="5"/></g>'
    )


def panel(name: str, points: Sequence[tuple[float, float]], bounds: tuple[float, float]) -> Markup:
    """A small curve without axes: its first and last number beside it; several share `bounds` and are comparable.

    Args:
        name: of the curve.
        points: by ascending x; at least one.
        bounds: least and greatest y of all panels, above 0; the scale is logarithmic.
    """
    first, last = points[0][1], points[-1][1]
    label = f"{name}: {first:.3g} at first, {last:.3g} at last"
    parts = [opened(PANEL_WIDTH, PANEL_HEIGHT, label), f"<title>{escape(label)}</title>"]
    low, high = (math.log(max(bound, 1e-6)) for bound in bounds)
    span = max(high - low, 1e-9)
    most = max(points[-1][0] - points[0][0], 1e-9)
    places = [
        (
            4 + (PANEL_WIDTH - 60) * (x - points[0][0]) / most,
            6 + (PANEL_HEIGHT - 12) * (high - math.log(max(y, 1e-6))) / span,
        )
        for x, y in points
    ]
    parts.append(_path(places, "mark-curve"))
    x, y = places[-1]
    parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    parts.append(f'<text x="{x + 8:.1f}" y="{min(max(y + 4, 12), PANEL_HEIGHT - 4):.1f}">{last:.3g}</text></svg>')
    return Markup("".join(parts))


def thinned(points: Sequence[tuple[float, float, float]], most: int = 60) -> list[tuple[float, float]]:
    """Points (x, y, weight) as at most `most` weighted means of runs of them."""
    found = []
    size = max(1, math.ceil(len(points) / most))
    for start in range(0, len(points), size):
        own = points[start : start + size]
        total = math.fsum(weight for _, _, weight in own)
        if total > 0:
            middle = math.fsum(x for x, _, _ in own) / len(own)
            found.append((middle, math.fsum(y * weight for _, y, weight in own) / total))
    return found


def line_chart(series: Sequence[Series], label: str, names: tuple[str, str], ticks: Sequence[str] = ()) -> Markup:
    """Curves with their names at their ends; `ticks` name the places 0, 1, 2 ... of x, else x is numbers on a log axis.

    Args:
        series: each with at least one point.
        label: for those who do not see it.
        names: what x and y are, with units.
        ticks: names of the places, where x has names.
    """
    if not any(each.points for each in series):
        return Markup("")

    def draw(plot: Plot) -> str:
        xs, ys = [x for each in series for x, _ in each.points], [y for each in series for _, y in each.points]
        logarithmic = not ticks and min(xs) > 0 and max(xs) > min(xs)
        places = [math.log(x) if logarithmic else x for x in xs]
        across = _between(places, MARGIN, plot.right)
        up, marks = linear_scale(ys, plot.bottom, TOP)
        height = plot.bottom + BELOW + (0 if not ticks else 18 if plot.behind else 62)
        below = dict(zip(xs, map(across, places), strict=True))
        parts = [opened(plot.width, height, label), *grid_lines(up, marks, plot), *_below(below, plot, ticks)]
        for each in series:
            parts += _curve(each, [(below[x], up(y)) for x, y in each.points], plot)
        return "".join([*parts, *axis_names(names, height), "</svg>"])

    return both(draw(WIDE_PLOT), draw(NARROW_PLOT))


def _below(places: Mapping[float, float], plot: Plot, ticks: Sequence[str]) -> list[str]:
    """The names of the places of x, or their numbers."""
    y = plot.bottom + 18
    if not ticks:
        spots = ((places[x], f"{x:,.4g}") for x in sorted(places))
        return [f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{y}">{name}</text>' for x, name in spots]
    turned, chars = (18, 20) if plot.behind else (55, 12)
    return [
        f'<text class="tick" transform="translate({places[number]:.1f} {y}) rotate({turned})">'
        f"{escape(cut(name, chars))}</text>"
        for number, name in enumerate(ticks)
        if number in places
    ]


def _curve(each: Series, places: Sequence[tuple[float, float]], plot: Plot) -> list[str]:
    kind = "mark" if each.strong else "pale"
    parts = [_path(places, f"{kind}-curve")]
    for (x, y), (_, value) in zip(places, each.points, strict=True):
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4">')
        parts.append(f"<title>{escape(each.name)}: {value:.4g}</title></circle>")
    return [*parts, plot.named(places[-1], each.name)]


def scatter(points: Sequence[tuple[float, float, str]], label: str, names: tuple[str, str]) -> Markup:
    """Points with a title each; `names` are what x and y are."""
    if not points:
        return Markup("")

    def draw(plot: Plot) -> str:
        across, below = linear_scale([x for x, _, _ in points], MARGIN, plot.right)
        up, beside = linear_scale([y for _, y, _ in points], plot.bottom, TOP)
        height = plot.bottom + BELOW
        parts = [opened(plot.width, height, label), *grid_lines(up, beside, plot)]
        for at, name in below:
            parts.append(f'<text class="tick" text-anchor="middle" x="{across(at):.1f}" y="{plot.bottom + 18}">')
            parts.append(f"{name}</text>")
        for x, y, title in points:
            parts.append(f'<circle class="mark dot" cx="{across(x):.1f}" cy="{up(y):.1f}" r="5">')
            parts.append(f"<title>{escape(title)}: {x:.4g}, {y:.4g}</title></circle>")
        return "".join([*parts, *axis_names(names, height), "</svg>"])

    return both(draw(WIDE_PLOT), draw(NARROW_PLOT))


def grid_lines(up: Callable[[float], float], marks: Sequence[tuple[float, str]], plot: Plot) -> list[str]:
    """Level lines with their numbers."""
    parts = []
    for at, name in marks:
        parts.append(f'<line class="grid" x1="{MARGIN}" x2="{plot.right}" y1="{up(at):.1f}" y2="{up(at):.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{MARGIN - 8}" y="{up(at) + 4:.1f}">{name}</text>')
    return parts


def axis_names(names: tuple[str, str], height: float) -> list[str]:
    """What x and y are."""
    return [
        f'<text class="tick" x="{MARGIN}" y="{height - 4}">{escape(names[0])}</text>',
        f'<text class="tick" x="0" y="12">{escape(names[1])}</text>',
    ]


def _path(places: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _between(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    span = high - low
    return lambda value: start + (end - start) * (0.5 if span <= 0 else (value - low) / span)


def linear_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A linear scale that holds the values, and its round ticks."""
    low, high = min(values), max(values)
    if high - low <= SAME * max(abs(high), abs(low)) + SAME**4:
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (times * step) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [(number * step, f"{number * step + 0.0:.6g}") for number in range(first, last + 1)]
    bottom, span = first * step, (last - first) * step
    return lambda value: start + (end - start) * (value - bottom) / span, ticks


def _log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Multiples around 1 on a log axis that reaches as far down as up; ticks at powers of two."""
    most = max(1, math.ceil(max(abs(math.log2(max(value, 1e-6))) for value in values) - 1e-9))
    step = max(1, math.ceil(most / 4))
    powers = range(-(most // step) * step, most + 1, step)
    ticks = [(2.0**power, f"{2**power}×" if power >= 0 else f"1/{2**-power}") for power in powers]
    return lambda value: (start + end) / 2 + (end - start) / 2 * math.log2(max(value, 1e-6)) / most, ticks
