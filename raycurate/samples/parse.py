"""One raw row -> one ``Sample``, or the reason why not.

Accepted shapes of a row: LLaVA (``conversations`` of ``from``/``value``, ``image``), Hugging Face (``messages`` of
``role``/``content``, the content a string or a list of blocks, ``images``), The Cauldron (``texts`` of
``user``/``assistant``, ``images``). Rows are untrusted: every value's type, length and characters are checked before
it is used, and the first fault found names the row. Checks stand in a fixed order, so a row has one reason.

A conversation is an optional system turn, then user and assistant in turn, ending with an answer. Each image has one
``<image>`` mark, in a turn of the user. Text is kept to the letter: no trimming, no moving of marks; HTML is text.
Tab, line feed and carriage return are text, other control characters are refused, as are lone surrogates (they have
no UTF-8).
Cost: O(characters); embedded images are hashed once (sha256).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycurate.errors import UserError
from raycurate.samples.parse_images import ImageValue, collect_images
from raycurate.samples.parse_turns import collect_turns
from raycurate.samples.quarantine import FaultError, Reason, Reject, excerpt_of
from raycurate.samples.rows import RawRow, ReadError
from raycurate.samples.schema import IMAGE_MARK, Message, Sample
from raycurate.samples.tasks import MAX_TASK_CHARS, UNKNOWN_TASK, TaskMap

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]*")
_MAX_ID_CHARS = 1024
_DEFAULT_TASK_COLUMN = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseOptions:
    """Limits and choices of ``parse_row``."""

    task_column: str = _DEFAULT_TASK_COLUMN
    """The column that names the task. Any other than ``task`` must be in every row that no task rule matches."""
    task_map: TaskMap | None = None
    insert_missing_marks: bool = False
    """Put missing marks in front of the first question, instead of refusing the row."""
    drop_leading_answer: bool = False
    """Drop the assistant's turns before the first question (as LLaVA's trainer does), instead of refusing the row."""
    image_root: str | None = None
    """What absolute image paths are made relative to."""
    max_turns: int = 256
    max_chars: int = 200_000
    max_images: int = 64

    def __post_init__(self) -> None:
        for name, least in (("max_turns", 2), ("max_chars", 1), ("max_images", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.task_column:
            raise UserError("task_column is empty; name a column (default: 'task')")


def parse_row(raw: RawRow, options: ParseOptions) -> Sample | Reject:
    """Check and normalise one row. Never raises for what is in the row."""
    value = raw.value
    if isinstance(value, ReadError):
        return Reject(value.fault.reason, value.fault.detail, raw.source_file, raw.source_row, value.excerpt)
    source_id: str | None = None
    try:
        if not isinstance(value, dict):
            raise FaultError(Reason.NOT_AN_OBJECT, f"the row is {_kind(value)}, not an object")
        source_id = _source_id(value.get("id"))
        return _sample(raw, value, source_id, options)
    except FaultError as error:
        fault = error.fault
        return Reject(
            fault.reason, fault.detail, raw.source_file, raw.source_row, excerpt_of(value), source_id=source_id
        )


def _sample(raw: RawRow, row: Mapping[str, Any], source_id: str | None, options: ParseOptions) -> Sample:
    turns = collect_turns(row, max_turns=options.max_turns, drop_leading_answer=options.drop_leading_answer)
    _check_text(turns.messages, options.max_chars)
    marks = sum(message.text.count(IMAGE_MARK) for message in turns.messages)
    images = collect_images(row, turns.inline_images, options.max_images, marks, options.image_root)
    fill = options.insert_missing_marks or turns.marks_are_implied
    messages = _with_marks(turns.messages, marks, len(images), fill)
    return Sample(
        messages=messages,
        images=tuple(image.ref for image in images),
        source_id=source_id,
        task=_task(row, messages, images, options),
        source_file=raw.source_file,
        source_row=raw.source_row,
    )


def _check_text(messages: tuple[Message, ...], max_chars: int) -> None:
    total = sum(len(message.text) for message in messages)
    if total > max_chars:
        raise FaultError(Reason.OVERLONG, f"the conversation has {total} characters; at most {max_chars} are accepted")
    for turn, message in enumerate(messages):
        _check_characters(message.text, f"turn {turn}")
        text = message.text
        if not text.strip() or (not text.isascii() and _INVISIBLE.fullmatch(text)):
            raise FaultError(Reason.EMPTY_TURN, f"turn {turn} ({message.role}) has no text")


def _check_characters(text: str, where: str) -> None:
    control = _CONTROL.search(text)
    if control:
        code = f"U+{ord(control[0]):04X}"
        raise FaultError(Reason.CONTROL_CHARACTERS, f"{where} holds the control character {code}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise FaultError(Reason.INVALID_UTF8, f"{where} holds a lone surrogate, which has no UTF-8") from None


def _with_marks(messages: tuple[Message, ...], marks: int, num_images: int, fill: bool) -> tuple[Message, ...]:
    """The messages with exactly one mark an image, all in the user's turns."""
    stray = next((m.role for m in messages if m.role != "user" and IMAGE_MARK in m.text), None)
    if stray:
        detail = f"a turn of the {stray} holds an {IMAGE_MARK} mark; only questions show images"
        raise FaultError(Reason.IMAGE_MARK_MISMATCH, detail)
    if marks == num_images:
        return messages
    if marks > num_images or not fill:
        hint = "; insert_missing_marks=true puts missing marks first" if marks < num_images else ""
        detail = f"{marks} {IMAGE_MARK} mark(s) for {num_images} image(s){hint}"
        raise FaultError(Reason.IMAGE_MARK_MISMATCH, detail)
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    text = (IMAGE_MARK + "\n") * (num_images - marks) + messages[first].text
    return (*messages[:first], Message("user", text), *messages[first + 1 :])


def _task(
    row: Mapping[str, Any], messages: tuple[Message, ...], images: list[ImageValue], options: ParseOptions
) -> str:
    """The row's own task, else the first rule that matches, else ``unknown``."""
    named = row.get(options.task_column)
    if isinstance(named, float):  # a column of whole numbers with a gap, as pandas writes it
        named = None if named != named else int(named) if named.is_integer() else named
    if named is not None and not isinstance(named, (str, int)):
        raise FaultError(Reason.WRONG_TYPE, f"'{options.task_column}' is {_kind(named)}, not a name")
    if named is not None and str(named).strip():
        name = str(named).strip()
        _check_characters(name, f"'{options.task_column}'")
        if len(name) > MAX_TASK_CHARS:
            raise FaultError(Reason.OVERLONG, f"'{options.task_column}' has {len(name)} characters")
        return name
    if options.task_map is not None:
        prompt = "\n".join(message.text for message in messages if message.role == "user")
        path = images[0].path if images else None
        task = options.task_map.task_of(path, prompt, bool(images))
        if task is not None:
            return task
    if options.task_column != _DEFAULT_TASK_COLUMN:
        raise FaultError(Reason.MISSING_TASK, f"the row has no '{options.task_column}' and no task rule matches it")
    return UNKNOWN_TASK


def _source_id(value: Any) -> str | None:
    """The source's own id as text, None where there is none or it is no plain value."""
    if value is None or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, int) and value.bit_length() > 4096:
        return None
    text = str(value)
    if len(text) > _MAX_ID_CHARS:
        raise FaultError(Reason.OVERLONG, f"'id' has {len(text)} characters; at most {_MAX_ID_CHARS} are accepted")
    _check_characters(text, "'id'")
    return text


def _kind(value: Any) -> str:
    """A JSON type as people call it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
