"""A chart as an SVG file that stands alone: its style inside, paper behind it; the same numbers give the same bytes."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup

from raycurate.charts.marks import wide_of


def chart_style() -> str:
    """The style sheet of all charts: colours of light and dark, classes of marks."""
    return files("raycurate.charts").joinpath("chart.css").read_text(encoding="utf-8")


def svg_file(chart: Markup) -> bytes:
    """The form for wide pages of what `marks.both` made."""
    head, _, rest = wide_of(chart).partition(">")
    namespace = ' xmlns="http://www.w3.org/2000/svg"'
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return f"{head}{namespace}><style>{chart_style()}</style>{paper}{rest}\n".encode()
