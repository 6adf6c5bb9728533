"""The two third-party sources of the demo, read from installed packages, and what is known about each image.

- easy-vqa (MIT): 5,000 images of 64 x 64 pixels with one shape each, 48,248 questions, and its own split into
  train and test.
- scikit-learn's digits (the test part of UCI Optical Recognition of Handwritten Digits): 1,797 scans of 8 x 8
  pixels; split here 4 : 1 by a fixed permutation, so a scan is in train or in test and never in both.

The colour and shape of an easy-vqa image are read off its own questions; the box is computed from the pixels.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from raycurate.errors import UserError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("red", "green", "blue", "yellow", "gray", "black", "brown", "teal")
_SHAPE = re.compile("|".join(SHAPES))
_COLOR = re.compile("|".join(COLORS))
_NEGATED = re.compile(r"\b(no|not)\b")
_SCAN_SPLIT_SEED = 1797


@dataclass(frozen=True, slots=True)
class Picture:
    """An easy-vqa image: its file, its questions with answers, and its shape and colour where these tell them."""

    number: int
    path: Path
    questions: tuple[tuple[str, str], ...]
    shape: str | None
    color: str | None

    @property
    def known(self) -> bool:
        """Return whether both shape and colour are known."""
        return self.shape is not None and self.color is not None


@dataclass(frozen=True, slots=True)
class Scan:
    """One handwritten digit: its value and its pixels, uint8 (8, 8), white on black."""

    digit: int
    pixels: npt.NDArray[np.uint8]


def load_pictures(split: Split) -> list[Picture]:
    """Read one split of easy-vqa, ordered by image number.

    Raises:
        UserError: the package is missing or holds something else than the known release.
    """
    _require("easy_vqa", "easy-vqa")
    import easy_vqa

    questions = easy_vqa.get_train_questions() if split == "train" else easy_vqa.get_test_questions()
    paths = easy_vqa.get_train_image_paths() if split == "train" else easy_vqa.get_test_image_paths()
    by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, number in zip(*questions, strict=True):
        by_image[number].append((question, answer))
    if by_image.keys() != paths.keys():
        raise UserError(
            f"easy-vqa's {split} split has {len(paths)} images but questions about {len(by_image)}. "
            "Install the release the demo was made for: pip install easy-vqa==1.0"
        )
    return [_picture(number, Path(paths[number]), by_image[number]) for number in sorted(paths)]


def load_scans(split: Split) -> dict[int, list[Scan]]:
    """Read one split of the scanned digits, grouped by value."""
    _require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = list(range(len(bunch.target)))
    random.Random(_SCAN_SPLIT_SEED).shuffle(order)
    cut = len(order) * 4 // 5
    chosen = order[:cut] if split == "train" else order[cut:]
    scans: dict[int, list[Scan]] = {digit: [] for digit in range(10)}
    for index in sorted(chosen):
        pixels = np.minimum(bunch.images[index] * 16, 255).astype(np.uint8)
        scans[int(bunch.target[index])].append(Scan(int(bunch.target[index]), pixels))
    return scans


def shape_box(path: Path) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) in pixels, right and bottom exclusive, of what differs from the
    background.

    The background is the most frequent colour: a shape of easy-vqa covers less than half of its image.
    """
    with Image.open(path) as image:
        pixels_HW3 = np.asarray(image.convert("RGB"), dtype=np.int64)
    codes_HW = pixels_HW3 @ np.array([65536, 256, 1])
    values, counts = np.unique(codes_HW, return_counts=True)
    shape_HW = codes_HW != values[counts.argmax()]
    rows, columns = np.flatnonzero(shape_HW.any(1)), np.flatnonzero(shape_HW.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _picture(number: int, path: Path, questions: list[tuple[str, str]]) -> Picture:
    shapes: set[str] = set()
    colors: set[str] = set()
    for question, answer in questions:
        affirmed = answer not in ("yes", "no") or (answer == "no") == bool(_NEGATED.search(question))
        if affirmed:
            shapes.update(_SHAPE.findall(f"{question} {answer}"))
            colors.update(_COLOR.findall(f"{question} {answer}"))
    return Picture(
        number=number,
        path=path,
        questions=tuple(questions),
        shape=shapes.pop() if len(shapes) == 1 else None,
        color=colors.pop() if len(colors) == 1 else None,
    )


def _require(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"the demo dataset needs the package {package}. Install it: pip install 'raycurate[demo]'")
