"""The figures that experiments leave beside their tables: those that the report shows, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycurate.charts.figures import drawn
from raycurate.charts.files import svg_file
from raycurate.run.filesystem import delete_folder
from raycurate.run.store import Noun


def write_figures(noun: Noun, value: Mapping[str, Any]) -> None:
    """Replace all figures of a noun by those of these results."""
    delete_folder(noun.filesystem, f"{noun.folder}/figures")
    for figure in drawn(noun.noun, value):
        noun.write_bytes(f"figures/{figure.name}.svg", svg_file(figure.chart))
