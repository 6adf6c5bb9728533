"""Heat maps: a table whose cells are shaded by their numbers. Pure functions of numbers.

Shades are nine steps from orange over paper to blue, which colour-blind readers tell apart; they are cut at the 95th
percentile of what is shown, so that one number does not take all the colour. Every cell has its number, as text where
there is room, else as a title. On narrow pages the names of the rows stand above them and those of the columns upright,
so that the whole table is seen at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from raycurate.charts.marks import both, cut, opened

PAGE, NARROW_PAGE = 1040, 336
CELL, SMALL_CELL, FONT = 54, 26, 12
NAMES, HEAD, BEHIND = 170, 96, 70
MOST_WITH_NUMBERS, LEAST_WITH_NUMBERS = 16, 40
SHADES = 4
PERCENTILE = 95


@dataclass(frozen=True, slots=True)
class Table:
    """Where the parts of a table stand.

    Attributes:
        width: of the whole.
        left: of the first column.
        cell: width of a column.
        row: from one row to the next.
        down: from the top of a row to its cells, names between.
        numbers: whether cells show them.
        slant: of the names of the columns, degrees.
        font: of these, pixels.
    """

    width: float
    left: float
    cell: float
    row: float
    down: float
    numbers: bool
    slant: int
    font: float

    def column(self, number: int, name: str) -> str:
        """The name of a column."""
        x = self.left + self.cell * (number + 0.5) + (self.font / 3 if self.slant == -90 else 0)
        where = f'transform="translate({x:.1f} {HEAD - 8}) rotate({self.slant}) scale({self.font / FONT:.2f})"'
        return f'<text class="tick" {where}>{escape(cut(name, 18 if self.slant > -90 else 13))}</text>'

    def name(self, number: int, name: str) -> str:
        """The name of a row, beside or above it."""
        y = HEAD + self.row * number
        if self.down:
            return f'<text x="{self.left:.0f}" y="{y + self.down - 5:.1f}">{escape(cut(name, 40))}</text>'
        return f'<text text-anchor="end" x="{self.left - 10:.0f}" y="{y + 17:.1f}">{escape(cut(name, 22))}</text>'

    def square(self, place: tuple[int, int], step: int, title: str, text: str) -> str:
        """One cell."""
        x, y = self.left + self.cell * place[1], HEAD + self.row * place[0] + self.down
        kind = f"heat{'m' if step < 0 else ''}{abs(step)}"
        cell = f'<g><title>{escape(title)}</title><rect class="{kind}" x="{x:.1f}" y="{y:.1f}"'
        cell += f' width="{self.cell - 1:.1f}" height="{self.row - self.down - 1:.1f}"/>'
        if self.numbers:
            cell += (
                f'<text class="cell on{abs(step)}" text-anchor="middle" x="{x + self.cell / 2:.1f}" y="{y + 17:.1f}">'
            )
            cell += f"{escape(text)}</text>"
        return cell + "</g>"


def _tables(columns: int) -> tuple[Table, Table]:
    """For wide and for narrow pages."""
    numbers = columns <= MOST_WITH_NUMBERS
    cell = min(CELL if numbers else SMALL_CELL, (PAGE - NAMES - BEHIND) / columns)
    wide = Table(NAMES + cell * columns + BEHIND, NAMES, cell, 26, 0, numbers, -38, FONT)
    thin = min(CELL, (NARROW_PAGE - 2) / columns)
    few = thin >= LEAST_WITH_NUMBERS
    return wide, Table(NARROW_PAGE, 1, thin, 44, 20, few, -90, min(FONT, thin))


def heat_map(
    values_RC: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    *,
    show: Callable[[float], str] = "{:z.2f}".format,
) -> Markup:
    """A shaded table; NaN is an empty cell.

    Args:
        values_RC: the numbers.
        rows: names of the rows.
        columns: names of the columns.
        label: for those who do not see it.
        show: a number as text.
    """
    if values_RC.size == 0 or not np.isfinite(values_RC).any():
        return Markup("")
    away = np.abs(values_RC[np.isfinite(values_RC)])
    bound = float(np.percentile(away, PERCENTILE)) or float(away.max()) or 1.0

    def draw(table: Table) -> str:
        parts = [opened(round(table.width), round(HEAD + table.row * len(rows) + 8), label)]
        parts += [table.column(number, name) for number, name in enumerate(columns)]
        parts += [table.name(number, name) for number, name in enumerate(rows)]
        for place, value in np.ndenumerate(values_RC):
            if np.isfinite(value):
                row, column = place
                text = show(float(value))
                title = f"{rows[row]}, {columns[column]}: {text}"
                parts.append(table.square((row, column), _step(value / bound), title, text))
        return "".join([*parts, "</svg>"])

    wide, narrow = _tables(len(columns))
    return both(draw(wide), draw(narrow))


def _step(part: float) -> int:
    return int(np.clip(np.rint(part * SHADES), -SHADES, SHADES))
