"""``<image>`` marks in text, and the list of content blocks that chat templates take instead.

Trainers that read text want ``<image>\\nWhat is this?``; chat templates want ``[{image}, {text: "What is this?"}]``
and write their own image token, without the newline. So an image block and its neighbour stand for two things with
one newline between them, unless the neighbour is text that is empty or begins (ends) with a space or tab there. An
empty text block is the way to write "nothing in between". ``join_blocks(split_marks(text)) == text`` for every text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from raycurate.samples.schema import IMAGE_MARK

Block = str | None
"""Text, or None where an image stands; the text `VIDEO_MARK` alone is where a video stands."""
VIDEO_MARK = "<video>"
IMAGE_TAG = re.compile(r"<img>([^<]+)</img>")
"""Qwen-VL's first format: the path stands in the text, most often behind ``Picture 1: ``."""


def take_tags(text: str, references: list[Any]) -> str:
    """A text with marks in place of Qwen-VL's tags, whose paths go to ``references``; all else to the letter."""
    if "<img>" not in text:
        return text
    references.extend(IMAGE_TAG.findall(text))
    return IMAGE_TAG.sub(IMAGE_MARK, text)


def join_blocks(blocks: Sequence[Block]) -> str:
    """Content blocks as one text with a mark for each image."""
    parts: list[str] = []
    for i, block in enumerate(blocks):
        if i and _newline_between(blocks[i - 1], block):
            parts.append("\n")
        parts.append(IMAGE_MARK if block is None else block)
    return "".join(parts)


def split_marks(text: str) -> list[Block]:
    """A text with marks as content blocks, none of them empty where that can be avoided."""
    segments = text.split(IMAGE_MARK)
    blocks: list[Block] = []
    for i, segment in enumerate(segments):
        if i:
            blocks.append(None)
        blocks.extend(_segment_blocks(segment, after_image=i > 0, before_image=i < len(segments) - 1))
    return blocks


def _newline_between(left: Block, right: Block) -> bool:
    left, right = (None if block == VIDEO_MARK else block for block in (left, right))
    if left is not None and right is not None:
        return False
    if left is not None:
        return bool(left) and left[-1] not in " \t"
    return right is None or (bool(right) and right[0] not in " \t")


def _segment_blocks(segment: str, *, after_image: bool, before_image: bool) -> list[Block]:
    """The text between two images (or an image and an end): the plainest blocks that join to it again."""
    before: list[Block] = [None] if after_image else []
    after: list[Block] = [None] if before_image else []
    marks = IMAGE_MARK * after_image, IMAGE_MARK * before_image
    wanted = marks[0] + segment + marks[1]
    plain = segment.removeprefix("\n") if after_image else segment
    plain = plain.removesuffix("\n") if before_image else plain
    for text in (plain, segment):
        middle: list[Block] = [text] if text else []
        if join_blocks([*before, *middle, *after]) == wanted:
            return middle
    left, right = [""] * after_image, [""] * before_image
    return [*left, segment, *right] if segment else [*left, *right]
