"""A picture under fog that is thin where it counted: a map of patches laid over a small copy, as a new image.

    shown = w pixel + (1 - w) fog,      w = CLEAREST at the largest number of the map, DIMMEST at 0, even between

Fog is a middle grey, so that it is told from light and dark pictures alike, and no colour stands for a number. The
patch of the largest number has a frame, light inside and dark outside. Patches keep their edges: nothing is smoothed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 128
DIMMEST, CLEAREST = 0.12, 1.0
FOG = 128.0


def overlay(picture: Image.Image, map_RC: NDArray[np.float64]) -> Image.Image:
    """The picture, at most `SIDE` on its longer side, under the map."""
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    rows, columns = map_RC.shape
    most = float(map_RC.max())
    weight_RC = DIMMEST + (CLEAREST - DIMMEST) * (map_RC / most if most > 0 else np.zeros_like(map_RC))
    row_H, column_W = (np.arange(n) * cells // n for n, cells in ((height, rows), (width, columns)))
    weight_HW1 = weight_RC[row_H][:, column_W, None]
    shown = Image.fromarray(
        np.uint8(np.rint(weight_HW1 * np.asarray(small, dtype=np.float64) + (1 - weight_HW1) * FOG))
    )
    if most > 0:
        _frame(shown, np.unravel_index(int(map_RC.argmax()), map_RC.shape), (rows, columns))
    return shown


def _frame(shown: Image.Image, place: tuple[np.intp, ...], cells: tuple[int, int]) -> None:
    (row, column), (rows, columns) = (int(each) for each in place), cells
    left, right = (at * shown.width // columns for at in (column, column + 1))
    top, bottom = (at * shown.height // rows for at in (row, row + 1))
    draw = ImageDraw.Draw(shown)
    draw.rectangle((left - 1, top - 1, right, bottom), outline=(0, 0, 0))
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=(255, 255, 255))
