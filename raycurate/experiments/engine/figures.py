"""The figures of a sweep as PNG and SVG: what a point costs against what it brings, and the tasks of each method.

Drawn on canvases of their own, without pyplot's global state, and without dates: the same rows give the same SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = Mapping[str, Any]
DPI = 150


def draw_figures(rows: Sequence[Row], times: Sequence[Row], tasks: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of every figure; `rows` and `times` are in the same order."""
    for name, figure in _figures(rows, times, tasks):
        yield f"{name}.png", saved(figure, "png")
        yield f"{name}.svg", saved(figure, "svg")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: lower x and higher y are better; by ascending x."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _figures(rows: Sequence[Row], times: Sequence[Row], tasks: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    scored = [(row, time) for row, time in zip(rows, times, strict=True) if row.get("rel_percent") is not None]
    if scored:
        values = [(time["cost_seconds"], row["rel_percent"]) for row, time in scored]
        yield "pareto", _scatter([row for row, _ in scored], values, ("cost in seconds", "Rel.%"), sign=1)
    measured = [row for row in rows if row.get("mmd2") is not None]
    if measured:
        values = [(row["ratio"], row["mmd2"]) for row in measured]
        names = ("part of the rows kept", "MMD$^2$ to all rows")
        yield "mmd" if scored else "pareto", _scatter(measured, values, names, sign=-1)
    for method in dict.fromkeys(row["method"] for row in tasks):
        own = [row for row in tasks if row["method"] == method]
        yield f"tasks-{re.sub(r'[^A-Za-z0-9._-]', '-', method)}", _histogram(method, own)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, on a canvas of its own."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: Figure, format_: str) -> bytes:
    """The bytes of a figure as 'png' or 'svg'."""
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "raycurate"}):
        figure.savefig(data, format=format_, dpi=DPI, metadata={"Date": None} if format_ == "svg" else None)
    return data.getvalue()


def _scatter(
    rows: Sequence[Row], values: Sequence[tuple[float, float]], names: tuple[str, str], *, sign: int
) -> Figure:
    """Points by method and temperature, and the front; `sign` is 1 where a higher second value is better, else -1."""
    figure = new_figure(6.5, 4.5)
    axes = figure.add_subplot()
    groups = [_series(row) for row in rows]
    for group in dict.fromkeys(groups):
        own = sorted(value for value, name in zip(values, groups, strict=True) if name == group)
        axes.plot(*zip(*own, strict=True), marker="o", linestyle="none", label=group)
    front = [values[index] for index in pareto_front([(x, sign * y) for x, y in values])]
    axes.plot(
        *zip(*front, strict=True), color="0.5", linewidth=1, zorder=0, label="Pareto front", drawstyle="steps-post"
    )
    if sign < 0 and all(y > 0 for _, y in values):
        axes.set_yscale("log")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.legend(fontsize="small")
    return figure


def _series(row: Row) -> str:
    return row["method"] if row["temperature"] is None else f"{row['method']}, temperature {row['temperature']:g}"


def _histogram(method: str, rows: Sequence[Row]) -> Figure:
    """A panel per ratio, a bar per task and temperature: its share of the kept rows, mean over seeds."""
    ratios = sorted({row["ratio"] for row in rows})
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    before = {row["task"]: row["share_before"] for row in rows}
    figure = new_figure(1.5 + 2.8 * len(ratios), 1.2 + 0.14 * len(tasks) * (1 + len(temperatures)))
    height = 0.8 / len(temperatures)
    for panel, ratio in enumerate(ratios):
        axes = figure.add_subplot(1, len(ratios), panel + 1)
        for number, temperature in enumerate(temperatures):
            shares = [
                fmean(
                    row["share_after"]
                    for row in rows
                    if (row["task"], row["ratio"], row["temperature"]) == (task, ratio, temperature)
                )
                for task in tasks
            ]
            places = [place + (number - (len(temperatures) - 1) / 2) * height for place in range(len(tasks))]
            label = "kept" if temperature is None else f"temperature {temperature:g}"
            axes.barh(places, shares, height, label=label)
        axes.plot([before[task] for task in tasks], range(len(tasks)), "k|", markersize=8, label="all rows")
        axes.set_yticks(range(len(tasks)), tasks if panel == 0 else [""] * len(tasks), fontsize="small")
        axes.invert_yaxis()
        axes.set(title=f"{method}, ratio {ratio:g}", xlabel="share of the rows")
    figure.axes[0].legend(fontsize="x-small")
    return figure
