"""Heat maps: a table whose cells are shaded by their numbers. Pure functions of numbers.

Shades are nine steps from orange over paper to blue, which colour-blind readers tell apart; they are cut at the 95th
percentile of what is shown, so that one number does not take all the colour. Every cell has its number, as text where
there is room, else as a title.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from raycurate.report.charts import cut, opened

CELL_WIDTH, CELL_HEIGHT = 54, 26
NARROW = 26
NAMES, HEAD = 170, 96
MOST_WITH_NUMBERS = 16
SHADES = 4
PERCENTILE = 95


def heat_map(
    values_RC: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    *,
    middle: float = 0.0,
    show: Callable[[float], str] = "{:z.2f}".format,
) -> Markup:
    """A shaded table; NaN is an empty cell.

    Args:
        values_RC: the numbers.
        rows: names of the rows.
        columns: names of the columns, drawn slanted.
        label: for those who do not see it.
        middle: the number without a shade.
        show: a number as text.
    """
    if values_RC.size == 0 or not np.isfinite(values_RC).any():
        return Markup("")
    numbers = len(columns) <= MOST_WITH_NUMBERS
    wide = CELL_WIDTH if numbers else NARROW
    away = np.abs(values_RC[np.isfinite(values_RC)] - middle)
    bound = float(np.percentile(away, PERCENTILE)) or float(away.max()) or 1.0
    parts = [opened(NAMES + wide * len(columns) + 70, HEAD + CELL_HEIGHT * len(rows) + 8, label)]
    for place, name in enumerate(columns):
        x = NAMES + wide * (place + 0.5)
        parts.append(f'<text class="tick" transform="translate({x:.0f} {HEAD - 8}) rotate(-38)">')
        parts.append(f"{escape(cut(name, 18))}</text>")
    for place, name in enumerate(rows):
        y = HEAD + CELL_HEIGHT * place + 17
        parts.append(f'<text text-anchor="end" x="{NAMES - 10}" y="{y}">{escape(cut(name, 22))}</text>')
    for (row, column), value in np.ndenumerate(values_RC):
        if np.isfinite(value):
            where = (NAMES + wide * column, HEAD + CELL_HEIGHT * row)
            text = show(float(value))
            title = f"{rows[row]}, {columns[column]}: {text}"
            parts.append(_cell(where, wide, _step((value - middle) / bound), title, text, numbers))
    return Markup("".join([*parts, "</svg>"]))


def _step(part: float) -> int:
    return int(np.clip(np.rint(part * SHADES), -SHADES, SHADES))


def _cell(where: tuple[int, int], wide: int, step: int, title: str, text: str, numbers: bool) -> str:
    x, y = where
    kind = f"heat{'m' if step < 0 else ''}{abs(step)}"
    cell = f'<g><title>{escape(title)}</title><rect class="{kind}" x="{x}" y="{y}" width="{wide - 1}"'
    cell += f' height="{CELL_HEIGHT - 1}"/>'
    if numbers:
        strong = " on" if abs(step) >= SHADES - 1 else ""
        cell += f'<text class="cell{strong}" text-anchor="middle" x="{x + wide / 2:.0f}" y="{y + 17}">'
        cell += f"{escape(text)}</text>"
    return cell + "</g>"
