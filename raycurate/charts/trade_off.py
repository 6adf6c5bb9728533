"""What a choice costs against what it brings: points with their ranges, and the front at each budget.

A point is on the front of its budget where no other of it costs as little and brings as much. Marks of the front are
strong and joined by steps, the others pale. Names stand at the marks; where they would lie on each other the one that
comes later is left out (its mark still has a title).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from raycurate.charts.curves import (
    BELOW,
    MARGIN,
    NARROW_PLOT,
    TOP,
    WIDE_PLOT,
    Plot,
    axis_names,
    grid_lines,
    linear_scale,
)
from raycurate.charts.marks import both, cut, opened

LETTER, LINE = 7, 14
NAME_CHARS = 28


@dataclass(frozen=True, slots=True)
class Offer:
    """What one choice costs and brings; the range of what it brings over seeds, None for one seed."""

    name: str
    cost: float
    gain: float
    low: float | None = None
    high: float | None = None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: lower x and higher y are better; by ascending x."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def trade_off(offers: Sequence[Offer], label: str, names: tuple[str, str]) -> Markup:
    """The chart of one budget.

    Args:
        offers: at least one.
        label: for those who do not see it.
        names: what cost and gain are, with units.
    """
    if not offers:
        return Markup("")
    front = pareto_front([(each.cost, each.gain) for each in offers])

    def draw(plot: Plot) -> str:
        across, below = linear_scale([each.cost for each in offers], MARGIN, plot.right)
        ends = [v for each in offers for v in (each.gain, each.low, each.high) if v is not None]
        up, beside = linear_scale(ends, plot.bottom, TOP)
        height = plot.bottom + BELOW
        parts = [opened(plot.width, height, label), *grid_lines(up, beside, plot)]
        for at, name in below:
            parts.append(f'<text class="tick" text-anchor="middle" x="{across(at):.1f}" y="{plot.bottom + 18}">')
            parts.append(f"{name}</text>")
        parts.append(_steps([(across(offers[i].cost), up(offers[i].gain)) for i in front]))
        parts += [_mark(each, across, up, strong=number in front) for number, each in enumerate(offers)]
        order = [*front, *(i for i in range(len(offers)) if i not in front)]
        parts += _names([(across(offers[i].cost), up(offers[i].gain), offers[i].name) for i in order], plot)
        return "".join([*parts, *axis_names(names, height), "</svg>"])

    return both(draw(WIDE_PLOT), draw(NARROW_PLOT))


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """The front: level to the next point's cost, then up."""
    corners = [f"{places[0][0]:.1f},{places[0][1]:.1f}"]
    for (_, y), (after, above) in zip(places[:-1], places[1:], strict=True):
        corners += [f"{after:.1f},{y:.1f}", f"{after:.1f},{above:.1f}"]
    return f'<polyline class="pale-curve" points="{" ".join(corners)}"/>'


def _mark(each: Offer, across: Callable[[float], float], up: Callable[[float], float], *, strong: bool) -> str:
    kind, x = "mark" if strong else "pale", across(each.cost)
    title, line = f"{each.name}: {each.gain:.4g} for {each.cost:,.4g}", ""
    if each.low is not None and each.high is not None:
        title += f", {each.low:.4g} to {each.high:.4g}"
        line = f'<line class="{kind}-line" x1="{x:.1f}" x2="{x:.1f}" y1="{up(each.low):.1f}" y2="{up(each.high):.1f}"/>'
    circle = f'<circle class="{kind}" cx="{x:.1f}" cy="{up(each.gain):.1f}" r="5"/>'
    return f"<g><title>{escape(title)}</title>{line}{circle}</g>"


def _names(places: Sequence[tuple[float, float, str]], plot: Plot) -> list[str]:
    """Names beside their marks, on the side that has room, the first ones first; none over another one."""
    taken: list[tuple[float, float, float]] = []
    parts = []
    for x, y, name in places:
        text = cut(name, NAME_CHARS)
        wide = LETTER * len(text)
        for left, anchor, at in ((x + 9, "start", x + 9), (x - 9 - wide, "end", x - 9)):
            free = all(left > stop or left + wide < start or abs(y - other) >= LINE for start, stop, other in taken)
            if free and left >= 0 and left + wide <= plot.width:
                taken.append((left, left + wide, y))
                parts.append(f'<text text-anchor="{anchor}" x="{at:.1f}" y="{y + 4:.1f}">{escape(text)}</text>')
                break
    return parts
