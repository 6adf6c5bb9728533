"""Grounding: the part of boxes with IoU above 0.5, and the mean IoU.

A box is four numbers x1, y1, x2, y2 in the first [...] of a text, in any unit that the reference shares. A text
without such a box, or whose box has no area, has IoU 0: a miss, counted in `parsed`. A hit is IoU > 0.5, strictly;
with several references the best one counts.

The IoU itself is `pycocotools.mask.iou`, COCO's own, in float64; it comes with pycocoevalcap. torchvision's
`box_iou` would do as well, but where torchvision is installed transformers picks other image processors, so a
metric's dependency would change the features. Cost: about 10 us a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from raycurate.errors import UserError
from raycurate.evaluation.base import Meta, Scores, load_library, mean
from raycurate.evaluation.text import plain_text

# Strictly above one half: boxes of a few decimals differ from it by far more than this, rounding by far less.
HIT_ABOVE = 0.5 + 1e-9
# Beyond any image in pixels; an area of larger numbers could overflow.
_LARGEST = 1e6
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")

Box = tuple[float, float, float, float]


def iou(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return `iou_at_0.5` (the headline), `mean_iou` and `parsed`, each 0..1, with hit and IoU of every row.

    Raises:
        UserError: a reference holds no box with an area, or pycocotools is missing.
    """
    coco = load_library("pycocotools.mask", "pycocoevalcap (with pycocotools)")
    overlaps, parsed = [], []
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        right = [_reference_box(row, answer) for answer in answers]
        box = parse_box(prediction)
        parsed.append(float(box is not None))
        overlaps.append(0.0 if box is None else _best_overlap(coco, box, right))
    hits = [float(overlap > HIT_ABOVE) for overlap in overlaps]
    values = {"iou_at_0.5": mean(hits), "mean_iou": mean(overlaps), "parsed": mean(parsed)}
    return Scores(headline="iou_at_0.5", values=values, rows={"iou_at_0.5": hits, "mean_iou": overlaps})


def parse_box(text: str) -> Box | None:
    """Return the four numbers in the first [...] of `text`, or None where there are none or they span no area."""
    found = _BRACKETS.search(plain_text(text))
    if found is None:
        return None
    try:
        numbers = [float(part) for part in found.group(1).split(",")]
    except ValueError:
        return None
    if len(numbers) != 4 or not all(abs(number) <= _LARGEST for number in numbers):
        return None
    left, top, right, bottom = numbers
    return (left, top, right, bottom) if right > left and bottom > top else None


def no_box(references: Sequence[str], _meta: Meta) -> str | None:
    """Why the metric cannot take a row's references, None where it can."""
    bad = next((text for text in references if parse_box(text) is None), None)
    return None if bad is None else f"{bad[:80]!r} holds no box, such as [0.1, 0.2, 0.5, 0.6]"


def _reference_box(row: int, text: str) -> Box:
    box = parse_box(text)
    if box is None:
        raise UserError(f"reference of row {row} is {text[:80]!r}; it must hold a box such as [0.1, 0.2, 0.5, 0.6]")
    return box


def _best_overlap(coco: Any, box: Box, references: Sequence[Box]) -> float:
    overlaps = coco.iou(
        [_corner_and_size(box)], [_corner_and_size(right) for right in references], [0] * len(references)
    )
    return float(overlaps.max())


def _corner_and_size(box: Box) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
