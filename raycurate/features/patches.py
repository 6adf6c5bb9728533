"""Which part of an image each of its visual tokens stands for: numbers of tokens as a map of rows and columns.

    grid    the model is told the grid of patches, which it merges m x m to a token (Qwen-VL): its rows over m
    square  V = s s tokens: s rows, from the top left on
    tiles   n blocks of s s tokens, the last of the whole image, the others r x c parts of it, row by row (SmolVLM,
            Idefics 3, InternVL), r c = n - 1 with the shape c / r nearest the image's: the map is the sum of both

Of numbers that add up to something, the map adds up to the same. Limits: a layout that is none of these has no map
(LLaVA-NeXT ends the rows of its parts with a token of their own).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def patch_map(
    value_V: Floats, size: tuple[int, int], *, grid: tuple[int, int] | None = None, tiles: int = 1
) -> Floats | None:
    """The map [rows, columns]; None for a layout that is not known.

    Args:
        value_V: a number for each visual token of the image, in their order.
        size: width and height of the image.
        grid: rows and columns of patches, where the model is told.
        tiles: blocks of pixels that the image was cut into.
    """
    if grid is not None:
        merge = math.isqrt(max(1, grid[0] * grid[1] // len(value_V)))
        rows, columns = grid[0] // merge, grid[1] // merge
        return value_V.reshape(rows, columns) if rows * columns == len(value_V) else None
    side = math.isqrt(len(value_V) // tiles)
    if side * side * tiles != len(value_V):
        return None
    blocks_NSS = value_V.reshape(tiles, side, side)
    if tiles == 1:
        return blocks_NSS[0]
    rows, columns = tile_grid(tiles - 1, size)
    parts = blocks_NSS[:-1].reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)
    whole = np.kron(blocks_NSS[-1], np.ones((rows, columns))) / (rows * columns)
    return np.asarray(parts + whole)


def tile_grid(parts: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many parts whose shape is nearest that of an image, the wider one of two that are."""
    wanted = math.log(size[0] / size[1])
    pairs = [(rows, parts // rows) for rows in range(1, parts + 1) if parts % rows == 0]
    return min(pairs, key=lambda pair: (abs(math.log(pair[1] / pair[0]) - wanted), pair[0]))
