"""What the drawn tasks of the proving ground are made of, read from installed packages.

- Font Awesome Free 6 (`fontawesomefree`; icons CC BY 4.0, fonts SIL OFL 1.1, code MIT): icons as glyphs of its fonts,
  with their names. Brand icons are trademarks of their owners.
- vega-datasets (MIT; its tables keep the terms of their publishers): cars with their origin, stock prices, Seattle's
  weather.
- DejaVu (its own free licence, after Bitstream Vera), shipped by matplotlib: text in three families.

Tables are split by row, so that a car, a day or a stretch of prices is in one split only.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image, ImageDraw, ImageFont

from raycurate.errors import UserError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("test", "validation", "train")  # in the order in which they are made
FAMILIES = {"sans": "DejaVuSans.ttf", "serif": "DejaVuSerif.ttf", "mono": "DejaVuSansMono.ttf"}
# Of ten rows of a table: two for test, one for validation, seven for train.
_TENTHS: dict[Part, tuple[int, ...]] = {"test": (0, 1), "validation": (2,), "train": (3, 4, 5, 6, 7, 8, 9)}
_TABLE_SEED = 665
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Icon:
    """A glyph of an icon font: its name, its font file and its character."""

    name: str
    font: str
    character: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """The drawn tasks' sources for one part: icons and fonts are common to all, rows of tables are not."""

    symbols: dict[str, Icon]
    brands: dict[str, Icon]
    fonts: dict[str, str]
    cars: list[tuple[str, str]]
    days: list[tuple[str, str]]
    prices: list[list[float]]


def load_shelf(part: Part) -> Shelf:
    """Read the sources of one part.

    Raises:
        UserError: a package is missing.
    """
    icons_root = _package("fontawesomefree", "fontawesomefree") / "static" / "fontawesomefree"
    tables = _package("vega_datasets", "vega-datasets") / "_data"
    fonts = _package("matplotlib", "matplotlib") / "mpl-data" / "fonts" / "ttf"
    return Shelf(
        symbols=_icons(icons_root, "solid", "fa-solid-900.ttf"),
        brands=_icons(icons_root, "brands", "fa-brands-400.ttf"),
        fonts={family: str(fonts / file) for family, file in FAMILIES.items()},
        cars=_of_part(_cars(tables), part),
        days=_of_part(_days(tables), part),
        prices=_of_part(_prices(tables), part),
    )


def glyph(font: str, text: str, size: int, ink: str) -> Image.Image:
    """Return the text as a transparent image cut to its ink; `size` in pixels per em."""
    left, top, right, bottom = _font(font, size).getbbox(text)
    image = Image.new("RGBA", (max(1, int(right - left)), max(1, int(bottom - top))))
    ImageDraw.Draw(image).text((-left, -top), text, font=_font(font, size), fill=ink)
    return image


@lru_cache(maxsize=256)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout is FreeType's alone: the same pixels whether or not libraqm is installed.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _icons(root: Path, style: str, font: str) -> dict[str, Icon]:
    known = json.loads((root / "metadata" / "icons.json").read_text(encoding="utf-8"))
    file = str(root / "webfonts" / font)
    return {
        name: Icon(name, file, chr(int(known[name]["unicode"], 16)))
        for name in sorted(known)
        if style in known[name]["free"]
    }


def _cars(tables: Path) -> list[tuple[str, str]]:
    rows = json.loads((tables / "cars.json").read_text(encoding="utf-8"))
    return sorted({(row["Name"], row["Origin"].lower()) for row in rows})


def _days(tables: Path) -> list[tuple[str, str]]:
    with (tables / "seattle-weather.csv").open(encoding="utf-8", newline="") as file:
        return [
            (
                f"rain {row['precipitation']}, high {row['temp_max']}, low {row['temp_min']}, wind {row['wind']}",
                row["weather"],
            )
            for row in csv.DictReader(file)
        ]


def _prices(tables: Path) -> list[list[float]]:
    """Twelve months each of one share's prices, none in two stretches."""
    shares: dict[str, list[float]] = {}
    with (tables / "stocks.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            shares.setdefault(row["symbol"], []).append(float(row["price"]))
    return [prices[at : at + 12] for prices in shares.values() for at in range(0, len(prices) - 11, 12)]


def _of_part(rows: list[_Row], part: Part) -> list[_Row]:
    order = list(range(len(rows)))
    random.Random(_TABLE_SEED).shuffle(order)
    return [rows[index] for place, index in enumerate(order) if place % 10 in _TENTHS[part]]


def _package(module: str, package: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise UserError(f"the proving ground needs the package {package}. Install it: pip install 'raycurate[proving]'")
    return Path(found.origin).parent
