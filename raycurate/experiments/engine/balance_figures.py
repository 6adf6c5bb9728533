"""The figures of `balance` as PNG and SVG: contributions as a heat map, difficulties and weights as bars."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raycurate.balancing import Balance
from raycurate.experiments.engine.figures import new_figure, saved

SHOWN = 10
"""Most units with their numbers inside the cells of the heat map."""


def draw_balance(result: Balance) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of every figure."""
    weights = result.weights
    bars = {"outward": weights.out_N, "inward": weights.in_N, "difficulty": weights.difficulty_N}
    figures = {
        "contributions": _heat_map(result),
        "difficulties": _bars(result.units, {"difficulty": result.difficulty_N}, "difficulty $D_i$", line=0.0),
        "weights": _bars(result.units, {**bars, "final": weights.final_N}, r"weight $\lambda_i$", line=1.0),
    }
    for name, figure in figures.items():
        yield f"{name}.png", saved(figure, "png")
        yield f"{name}.svg", saved(figure, "svg")


def _heat_map(result: Balance) -> Figure:
    """C without its diagonal of ones, which says nothing; colours are cut at the 95th percentile of |C|."""
    count = len(result.units)
    others_NN = np.where(np.eye(count, dtype=bool), np.nan, result.contribution_NN)
    bound = float(np.nanpercentile(np.abs(others_NN), 95)) or 1.0
    figure = new_figure(3.5 + 0.5 * count, 1.8 + 0.4 * count)
    axes = figure.add_subplot()
    image = axes.imshow(others_NN, cmap="RdBu", vmin=-bound, vmax=bound)
    axes.set_xticks(range(count), result.units, rotation=45, ha="right", fontsize="small")
    axes.set_yticks(range(count), result.units, fontsize="small")
    axes.set(xlabel="takes", ylabel="gives")
    size = "x-small" if count <= SHOWN else "xx-small"
    for (row, column), value in np.ndenumerate(others_NN):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.7 * bound else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=size, color=colour)
    figure.colorbar(image, label="contribution", extend="both")
    return figure


def _bars(units: tuple[str, ...], series: dict[str, NDArray[np.float64]], name: str, *, line: float) -> Figure:
    figure = new_figure(6.5, 1.2 + 0.14 * len(units) * (1 + len(series)))
    axes = figure.add_subplot()
    height = 0.8 / len(series)
    for number, (label, values_N) in enumerate(series.items()):
        places_N = np.arange(len(units)) + (number - (len(series) - 1) / 2) * height
        axes.barh(places_N, values_N, height, label=label)
    axes.axvline(line, color="0.5", linewidth=1, zorder=0)
    axes.set_yticks(range(len(units)), units, fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel=name)
    if len(series) > 1:
        axes.legend(fontsize="x-small")
    return figure
