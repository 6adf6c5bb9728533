"""The tasks of the demo: what is asked about the two sources, and what the right answer is.

| task | train rows | image | asks |
|---|---|---|---|
| yes_no, shape, color | 28,407 / 5,002 / 5,166 | easy-vqa's own | easy-vqa's own questions, word for word |
| caption, box, dialogue | 2,000 / 1,500 / 1,500 | same | a sentence; the box; a sentence, then questions |
| read_number, larger_number, parity | 3,000 / 800 / 400 | scans | number; larger of two; is the digit sum even |
| count, bigger | 1,200 / 600 | easy-vqa collages | how many; which of two shapes covers more |
| arithmetic, sort_words | 500 / 250 | none | sums in words; alphabetical order |

A task is a function of (split, its sources, a random generator) that yields rows; it draws from its own
split only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from raycurate.demo.materials import COLORS, SHAPES, Picture, Scan, Split, shape_box

IMAGE_MARK = "<image>"
SIDE = 64
CELL = 16
_CELLS = ((0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE))
_NUMBER_TEXT = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen
"""
_WORD_TEXT = """
apple bird boat book cat chair cloud cup dog door fish flower fox glass hand hat horse house key lamp leaf lion
moon mouse nest pen plant rain ring river road rock rose ship shoe snow star stone sun table tiger train
tree water wind wolf zebra
"""
_NUMBERS = tuple(_NUMBER_TEXT.split())
_WORDS = tuple(_WORD_TEXT.split())


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: its task, its turns (question, answer), and its image.

    The image is a `Picture` of easy-vqa, a new one in memory, or None for text alone.
    """

    task: str
    turns: tuple[tuple[str, str], ...]
    image: Picture | Image.Image | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """What one split offers to the tasks: `pictures`, those of them that are `known`, and scans by digit."""

    split: Split
    pictures: list[Picture]
    scans: dict[int, list[Scan]]
    known: list[Picture] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the pictures whose shape and colour are both known."""
        object.__setattr__(self, "known", [picture for picture in self.pictures if picture.known])


TaskMaker = Callable[[Material, random.Random, int], Iterator[Row]]


def easy_vqa_rows(material: Material) -> Iterator[Row]:
    """Yield easy-vqa's own questions in its order; the task is told by the answer."""
    for picture in material.pictures:
        for question, answer in picture.questions:
            task = "yes_no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "color"
            yield Row(task, ((f"{IMAGE_MARK}\n{question}", answer),), picture)


def _caption(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    prompts = ("Describe the image.", "Write a short caption.", "What can be seen here?")
    for picture in _draw(material.known, rng, count):
        yield Row("caption", ((f"{IMAGE_MARK}\n{rng.choice(prompts)}", _sentence(picture)),), picture)


def _box(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for picture in _draw(material.known, rng, count):
        name = rng.choice((picture.shape, f"{picture.color} {picture.shape}", "shape"))
        answer = "[" + ", ".join(f"{v / SIDE:.2f}" for v in shape_box(picture.path)) + "]"
        yield Row("box", ((f"{IMAGE_MARK}\nGive the bounding box of the {name}.", answer),), picture)


def _dialogue(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for picture in _draw(material.known, rng, count):
        asked = rng.sample(picture.questions, min(len(picture.questions), rng.choice((1, 2, 3))))
        first = (f"{IMAGE_MARK}\nDescribe the image, then answer my questions.", _sentence(picture))
        yield Row("dialogue", (first, *asked), picture)


def _read_number(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    prompts = ("Read the number.", "Which number is written in the image?")
    for _ in range(count):
        text = "".join(rng.choice("0123456789") for _ in range(rng.choice((2, 2, 3, 3, 4))))
        image = _write(material, rng, [text])
        yield Row("read_number", ((f"{IMAGE_MARK}\n{rng.choice(prompts)}", text),), image)


def _larger_number(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for _ in range(count):
        one, two = rng.sample(range(10, 100), 2)
        image = _write(material, rng, [str(one), str(two)])
        yield Row("larger_number", ((f"{IMAGE_MARK}\nWhich of the two numbers is larger?", str(max(one, two))),), image)


def _parity(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for _ in range(count):
        text = "".join(rng.choice("0123456789") for _ in range(2))
        answer = "odd" if sum(map(int, text)) % 2 else "even"
        image = _write(material, rng, [text])
        yield Row("parity", ((f"{IMAGE_MARK}\nIs the sum of the digits even or odd?", answer),), image)


def _count(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for _ in range(count):
        pictures = rng.sample(material.known, rng.choice((2, 3, 4, 4)))
        shape, color = rng.choice(pictures).shape, rng.choice((rng.choice(pictures).color, rng.choice(COLORS)))
        question, number = rng.choice(
            (
                ("How many shapes are in the image?", len(pictures)),
                (f"How many {shape}s are in the image?", sum(p.shape == shape for p in pictures)),
                (f"How many {color} shapes are in the image?", sum(p.color == color for p in pictures)),
            )
        )
        yield Row("count", ((f"{IMAGE_MARK}\n{question}", str(number)),), _collage(pictures, rng))


def _bigger(material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    made = 0
    while made < count:
        pair = rng.sample(material.known, 2)
        small, large = sorted(pair, key=_covered)
        if _name(small) == _name(large) or _covered(large) < 1.4 * _covered(small):
            continue
        made += 1
        question = f"Which shape is bigger, the {_name(pair[0])} or the {_name(pair[1])}?"
        yield Row("bigger", ((f"{IMAGE_MARK}\n{question}", _name(large)),), _collage(pair, rng))


def _arithmetic(_material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for _ in range(count):
        one, two = rng.randrange(10), rng.randrange(10)
        if rng.random() < 0.5:
            question, value = f"What is {_NUMBERS[one]} plus {_NUMBERS[two]}?", one + two
        else:
            question, value = f"What is {_NUMBERS[max(one, two)]} minus {_NUMBERS[min(one, two)]}?", abs(one - two)
        yield Row("arithmetic", ((question, _NUMBERS[value]),))


def _sort_words(_material: Material, rng: random.Random, count: int) -> Iterator[Row]:
    for _ in range(count):
        words = rng.sample(_WORDS, rng.choice((3, 4)))
        yield Row("sort_words", ((f"Sort these words from a to z: {', '.join(words)}", ", ".join(sorted(words))),))


# Task -> (maker, rows in train, rows in test) at scale 1; easy-vqa's own questions come beside these.
MADE_TASKS: dict[str, tuple[TaskMaker, int, int]] = {
    "caption": (_caption, 2000, 200),
    "box": (_box, 1500, 200),
    "dialogue": (_dialogue, 1500, 200),
    "read_number": (_read_number, 3000, 300),
    "larger_number": (_larger_number, 800, 200),
    "parity": (_parity, 400, 200),
    "count": (_count, 1200, 200),
    "bigger": (_bigger, 600, 200),
    "arithmetic": (_arithmetic, 500, 100),
    "sort_words": (_sort_words, 250, 100),
}


def _draw(pictures: list[Picture], rng: random.Random, count: int) -> list[Picture]:
    return rng.sample(pictures, min(count, len(pictures)))


def _name(picture: Picture) -> str:
    return f"{picture.color} {picture.shape}"


def _sentence(picture: Picture) -> str:
    left, top, right, bottom = shape_box(picture.path)
    size = "small" if max(right - left, bottom - top) < 16 else "large"
    row = ("top", "middle", "bottom")[3 * (top + bottom) // (2 * SIDE + 1)]
    column = ("left", "center", "right")[3 * (left + right) // (2 * SIDE + 1)]
    return f"A {size} {_name(picture)} at the {row} {column}."


def _covered(picture: Picture) -> float:
    """Return the pixels that the shape covers, from its box: a triangle fills half of it, a circle pi / 4."""
    left, top, right, bottom = shape_box(picture.path)
    return (right - left) * (bottom - top) * {"rectangle": 1.0, "triangle": 0.5, "circle": 0.785}[picture.shape or ""]


def _collage(pictures: list[Picture], rng: random.Random) -> Image.Image:
    """Return up to four pictures in the cells of a 128 x 128 white sheet."""
    sheet = Image.new("RGB", (2 * SIDE, 2 * SIDE), "white")
    for picture, cell in zip(pictures, rng.sample(_CELLS, len(pictures)), strict=True):
        with Image.open(picture.path) as image:
            sheet.paste(image.convert("RGB"), cell)
    return sheet


def _write(material: Material, rng: random.Random, lines: list[str]) -> Image.Image:
    """Return a 64 x 64 image with each string on a line of its own, every digit a scan enlarged to 16 x 16 pixels."""
    pixels_HW = np.zeros((SIDE, SIDE), dtype=np.uint8)
    cells = SIDE // CELL
    for line, text in zip(sorted(rng.sample(range(cells), len(lines))), lines, strict=True):
        first = rng.randint(0, cells - len(text))
        for place, digit in enumerate(text, start=first):
            scan = rng.choice(material.scans[int(digit)])
            rows, columns = slice(line * CELL, (line + 1) * CELL), slice(place * CELL, (place + 1) * CELL)
            pixels_HW[rows, columns] = np.kron(scan.pixels, np.ones((2, 2), dtype=np.uint8))
    return Image.fromarray(pixels_HW).convert("RGB")
