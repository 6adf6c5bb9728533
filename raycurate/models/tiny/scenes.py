"""Procedural images for the tiny model: coloured shapes and hand-like digits, with exact ground truth.

A scene is drawn at twice its size and reduced, so edges are anti-aliased; every object is kept with its kind,
colour and box. Shapes vary in kind, colour (jittered), size, place and background; digits are polylines bent
by a random affine map, drawn with a random pen and blurred through a coarse grid, or set in Pillow's built-in
font. No file and no network is read. Cost: about 0.3 ms of one CPU core per scene. Limits: flat backgrounds,
no overlap between shapes, images of 64 x 64 pixels only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE = 64
CELL = 16
_OVERSAMPLE = 2

SHAPES = ("circle", "rectangle", "triangle", "star", "cross")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (240, 15, 15),
    "green": (20, 225, 20),
    "blue": (20, 20, 240),
    "yellow": (245, 245, 20),
    "gray": (128, 128, 128),
    "black": (8, 8, 8),
    "brown": (160, 50, 45),
    "teal": (5, 128, 128),
    "white": (250, 250, 250),
    "orange": (250, 140, 10),
    "purple": (130, 15, 150),
    "pink": (250, 130, 190),
}

# Pen strokes of the ten digits, "x,y" in hundredths of a square (x right, y down); "/" lifts the pen.
# Some digits are written in two ways.
_STROKES: dict[int, tuple[str, ...]] = {
    0: ("50,0 15,15 5,50 15,85 50,100 85,85 95,50 85,15 50,0",),
    1: ("30,20 55,0 55,100", "50,0 50,100"),
    2: ("10,25 30,2 70,2 88,25 75,50 10,100 95,100",),
    3: ("10,5 70,0 88,22 70,45 40,48 75,55 92,78 70,100 10,95",),
    4: ("45,0 5,60 95,60 / 70,30 65,100", "15,0 10,50 85,50 / 80,0 75,100"),
    5: ("90,0 20,0 15,42 65,40 92,68 70,98 10,95",),
    6: ("70,0 30,30 10,70 30,98 70,98 88,75 65,52 20,62",),
    7: ("5,0 92,0 40,100", "5,5 92,0 45,100 / 25,52 85,48"),
    8: ("50,48 18,25 50,0 82,25 50,48 10,75 50,100 90,75 50,48",),
    9: ("85,35 40,48 12,25 40,0 80,8 85,35 70,100",),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene.

    `kind` is a name of `SHAPES` or a digit "0".."9"; `color` a name of `COLORS`; `box` is (left, top, right,
    bottom) in pixels, right and bottom exclusive.
    """

    kind: str
    color: str
    box: tuple[float, float, float, float]

    @property
    def center(self) -> tuple[float, float]:
        """Return the middle of the box in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def area(self) -> float:
        """Return the area of the box in pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class Scene:
    """An RGB image of `SIDE` x `SIDE` pixels and the objects in it, left to right as they were placed."""

    image: Image.Image
    things: tuple[Thing, ...]
    dark: bool


def shapes_scene(rng: random.Random, count: int) -> Scene:
    """Draw `count` shapes that do not overlap: one anywhere, several in the cells of a jittered grid."""
    dark = rng.random() < 0.15
    background = _background(rng, dark)
    names = [name for name, rgb in COLORS.items() if _contrast(rgb, background) > 90]
    canvas, draw = _canvas(background)
    things = []
    for left, top, width, height in _slots(rng, count):
        color = rng.choice(names)
        kind = rng.choice(SHAPES)
        box = _place(rng, kind, (left, top, width, height))
        rgb = _jitter(rng, COLORS[color], 10)
        _draw_shape(draw, kind, tuple(_OVERSAMPLE * v for v in box), rgb)
        things.append(Thing(kind, color, box))
    return Scene(canvas.reduce(_OVERSAMPLE), tuple(things), dark)


def digits_scene(rng: random.Random, rows: list[str]) -> Scene:
    """Write each string of up to four digits on its own line, in cells of 16 pixels; every digit is a `Thing`."""
    dark = rng.random() < 0.6
    ink, paper = (rng.randint(200, 255), rng.randint(0, 45)) if dark else (rng.randint(0, 60), rng.randint(205, 255))
    gray = Image.new("L", (SIDE, SIDE), 0)
    things = []
    cells = SIDE // CELL
    lines = sorted(rng.sample(range(cells), len(rows)))
    for line, text in zip(lines, rows, strict=True):
        first = rng.randint(0, cells - len(text))
        for place, digit in enumerate(text, start=first):
            x, y = place * CELL, line * CELL
            gray.paste(_glyph(rng, int(digit), CELL), (x, y))
            things.append(Thing(digit, "white" if dark else "black", (x, y, x + CELL, y + CELL)))
    table = [round(paper + (ink - paper) * v / 255) for v in range(256)]
    return Scene(Image.merge("RGB", [gray.point(table)] * 3), tuple(things), dark)


def _canvas(background: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE * _OVERSAMPLE, SIDE * _OVERSAMPLE), background)
    return image, ImageDraw.Draw(image)


def _background(rng: random.Random, dark: bool) -> tuple[int, int, int]:
    low, high = (0, 60) if dark else (195, 255)
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _contrast(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


def _jitter(rng: random.Random, rgb: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, v + rng.randint(-spread, spread))) for v in rgb)
    return red, green, blue


def _slots(rng: random.Random, count: int) -> list[tuple[float, float, float, float]]:
    if count == 1:
        return [(0.0, 0.0, float(SIDE), float(SIDE))]
    side = 2 if count <= 4 and rng.random() < 0.7 else 3
    cell = SIDE / side
    cells = rng.sample(range(side * side), count)
    return [(cell * (c % side), cell * (c // side), cell, cell) for c in sorted(cells)]


def _place(rng: random.Random, kind: str, slot: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, width, height = slot
    room = min(width, height)
    largest = 36.0 if room >= SIDE else room
    wide = rng.uniform(max(6.0, 0.25 * largest), largest)
    tall = wide
    if kind == "rectangle":
        tall = rng.uniform(max(6.0, 0.25 * largest), largest)
    elif kind == "triangle":
        tall = wide * rng.choice((0.87, 0.87, 1.0))
    x = left + rng.uniform(0, width - wide)
    y = top + rng.uniform(0, height - tall)
    return round(x), round(y), round(x) + max(4, round(wide)), round(y) + max(4, round(tall))


def _draw_shape(draw: ImageDraw.ImageDraw, kind: str, box: tuple[float, ...], rgb: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    if kind == "circle":
        draw.ellipse((left, top, right - 1, bottom - 1), fill=rgb)
    elif kind == "rectangle":
        draw.rectangle((left, top, right - 1, bottom - 1), fill=rgb)
    else:
        outline = {"triangle": _TRIANGLE, "star": _STAR, "cross": _CROSS}[kind]
        width, height = right - left - 1, bottom - top - 1
        draw.polygon([(left + x * width, top + y * height) for x, y in outline], fill=rgb)


_TRIANGLE = ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0))
_STAR = ((0.5, 0.0), (0.63, 0.37), (1.0, 0.5), (0.63, 0.63), (0.5, 1.0), (0.37, 0.63), (0.0, 0.5), (0.37, 0.37))
_CROSS = (
    (0.33, 0.0), (0.67, 0.0), (0.67, 0.33), (1.0, 0.33), (1.0, 0.67), (0.67, 0.67),
    (0.67, 1.0), (0.33, 1.0), (0.33, 0.67), (0.0, 0.67), (0.0, 0.33), (0.33, 0.33),
)  # fmt: skip


def _glyph(rng: random.Random, digit: int, pitch: int) -> Image.Image:
    """Return one digit, white on black, `pitch` pixels square; half of them pass through a coarse 8 x 8 grid."""
    size = 32
    image = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.15:
        font = ImageFont.load_default(rng.randint(24, 30))
        draw.text((size / 2, size / 2), str(digit), fill=255, font=font, anchor="mm")
    else:
        pen = rng.randint(2, 6)
        for stroke in rng.choice(_STROKES[digit]).split("/"):
            draw.line(_bend(rng, stroke, size), fill=255, width=pen, joint="curve")
    if rng.random() < 0.7:
        coarse = image.resize((8, 8), Image.Resampling.BOX)
        peak = max(1, *coarse.tobytes())
        return coarse.point([min(255, v * 255 // peak) for v in range(256)]).resize((pitch, pitch), _upscale(rng))
    return image.resize((pitch, pitch), Image.Resampling.BILINEAR)


def _upscale(rng: random.Random) -> Image.Resampling:
    return rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC))


def _bend(rng: random.Random, stroke: str, size: int) -> list[tuple[float, float]]:
    wide = rng.uniform(0.4, 0.75) * size
    tall = rng.uniform(0.7, 0.92) * size
    slant = rng.uniform(-0.25, 0.2) * size
    x0, y0 = (size - wide) / 2 + rng.uniform(-2, 2), (size - tall) / 2
    noise = 0.05 * size
    return [
        (
            x0 + x * wide + (0.5 - y) * slant + rng.uniform(-noise, noise) / 2,
            y0 + y * tall + rng.uniform(-noise, noise) / 2,
        )
        for x, y in (tuple(int(v) / 100 for v in point.split(",")) for point in stroke.split())
    ]
