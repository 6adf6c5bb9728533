"""Rows that were refused: a closed list of reasons, and the quarantine table that keeps what was refused and where.

A reason is a column that people group by, so the list is closed and short; what is particular to the row goes into
``detail``. The excerpt is at most 500 characters of the row as JSON with control characters escaped, so a terminal or
a notebook can show it; HTML in it stays text and has to be escaped by whoever renders it as HTML. Cost of an excerpt:
O(500), whatever the size of the row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from raycurate.samples.schema import QUARANTINE_SCHEMA, Sample

EXCERPT_CHARS = 500
_DETAIL_CHARS = 300
_EXCERPT_ITEMS = 8
_EXCERPT_DEPTH = 5


class Reason(StrEnum):
    """Why a row was refused."""

    INVALID_JSON = "invalid_json"
    INVALID_UTF8 = "invalid_utf8"
    FILE_CORRUPT = "file_corrupt"
    CUT_OFF = "cut_off"
    NOT_AN_OBJECT = "not_an_object"
    LEFT_OUT = "left_out"
    ROW_FUNCTION_FAILED = "row_function_failed"
    MISSING_CONVERSATIONS = "missing_conversations"
    WRONG_TYPE = "wrong_type"
    NON_STRING_TURN = "non_string_turn"
    EMPTY_TURN = "empty_turn"
    UNKNOWN_ROLE = "unknown_role"
    WRONG_ROLE_ORDER = "wrong_role_order"
    NO_ANSWER = "no_answer"
    NO_TRAINED_ANSWER = "no_trained_answer"
    UNSUPPORTED_WEIGHT = "unsupported_weight"
    SEVERAL_ANSWERS = "several_answers"
    UNSUPPORTED_VIDEO = "unsupported_video"
    UNSUPPORTED_AUDIO = "unsupported_audio"
    UNSUPPORTED_GROUNDING = "unsupported_grounding"
    UNSUPPORTED_TOOLS = "unsupported_tools"
    UNSUPPORTED_MEDIA = "unsupported_media"
    CONTROL_CHARACTERS = "control_characters"
    OVERLONG = "overlong"
    MISSING_TASK = "missing_task"
    TOO_MANY_IMAGES = "too_many_images"
    IMAGE_MARK_MISMATCH = "image_mark_mismatch"
    IMAGE_PATH_ESCAPE = "image_path_escape"
    IMAGE_REMOTE = "image_remote"
    IMAGE_MISSING = "image_missing"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_UNSUPPORTED = "image_unsupported"
    IMAGE_CORRUPT = "image_corrupt"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_BOMB = "image_bomb"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_NARROW = "image_too_narrow"
    VIDEO_MISSING = "video_missing"
    VIDEO_TOO_LARGE = "video_too_large"
    VIDEO_CORRUPT = "video_corrupt"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row or an image, without the place."""

    reason: Reason
    detail: str


class FaultError(ValueError):
    """A fault on its way up to the code that knows the row."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(reason, detail)


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused row: ``source_row`` counts from 0 inside ``source_file``."""

    reason: Reason
    detail: str
    source_file: str
    source_row: int
    excerpt: str = ""
    source_id: str | None = None
    key: str | None = None

    def to_row(self) -> dict[str, Any]:
        """The row of ``QUARANTINE_SCHEMA``."""
        return {
            "key": self.key,
            "source_id": self.source_id,
            "source_file": self.source_file,
            "source_row": self.source_row,
            "reason": str(self.reason),
            "detail": printable(self.detail, _DETAIL_CHARS),
            "excerpt": printable(self.excerpt, EXCERPT_CHARS),
        }

    def __str__(self) -> str:
        detail = printable(self.detail, _DETAIL_CHARS)
        return f"{self.source_file}, row {self.source_row}: {self.reason}: {detail}"


def reject_sample(sample: Sample, fault: Fault) -> Reject:
    """Refuse a row that was already parsed (its image is broken, a later stage cannot use it)."""
    value = {
        "messages": [{"role": m.role, "text": m.text} for m in sample.messages[:_EXCERPT_ITEMS]],
        "images": [image.path or image.identity for image in sample.images[:_EXCERPT_ITEMS]],
    }
    return Reject(
        reason=fault.reason,
        detail=fault.detail,
        source_file=sample.source_file,
        source_row=sample.source_row,
        excerpt=excerpt_of(value),
        source_id=sample.source_id,
        key=sample.key,
    )


def rejects_to_table(rejects: Sequence[Reject]) -> pa.Table:
    """The quarantine table of some rejects."""
    return pa.Table.from_pylist([reject.to_row() for reject in rejects], schema=QUARANTINE_SCHEMA)


def excerpt_of(value: Any) -> str:
    """At most ``EXCERPT_CHARS`` characters of a row (raw bytes or a parsed value)."""
    if isinstance(value, bytes):
        return printable(value[: 4 * EXCERPT_CHARS].decode("utf-8", "backslashreplace"), EXCERPT_CHARS)
    return printable(json.dumps(_shorten(value, 0), ensure_ascii=False, default=str), EXCERPT_CHARS)


def printable(text: str, limit: int) -> str:
    """``text`` cut to ``limit`` characters; what is not printable (or not UTF-8) is written as an escape."""
    head = text[:limit]
    escaped = head if head.isprintable() else "".join(map(_escape, head))
    return escaped if len(escaped) <= limit and len(text) <= limit else escaped[: limit - 3] + "..."


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _shorten(value: Any, depth: int) -> Any:
    """A small copy of a nested value: long strings, lists and deep levels are cut, bytes become their length."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return value[:EXCERPT_CHARS]
    if isinstance(value, (list, tuple, Mapping)) and depth >= _EXCERPT_DEPTH:
        return "..."
    if isinstance(value, (list, tuple)):
        return [_shorten(item, depth + 1) for item in value[:_EXCERPT_ITEMS]]
    if isinstance(value, Mapping):
        names = list(value)[: 2 * _EXCERPT_ITEMS]
        return {str(name)[:100]: _shorten(value[name], depth + 1) for name in names}
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "<huge integer>"
    return value
