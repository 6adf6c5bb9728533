"""One raw row -> one ``Sample``, or the reason why not.

A user's own function may make one row of another first. Accepted shapes of a row: LLaVA (``conversations`` of
``from``/``value``, ``image``), Hugging Face (``messages`` of ``role``/``content``, the content a string or a list of
blocks, ``images``), The Cauldron (``texts`` of ``user``/``assistant``, ``images``), and tables (`tables.py`). Rows are
untrusted: every value's type, length and characters are checked before it is used, and the first fault found names the
row. Checks stand in a fixed order, so a row has one reason.

A conversation is system turns or none, a question, then turns of user and assistant in any order, an answer last: what
several in a row look like is for the model's chat template to say. Each image has one ``<image>`` mark, in a turn of
the user. Text is kept to the letter: no trimming, no moving of marks; HTML is text.
Tab, line feed and carriage return are text, other control characters are refused, as are lone surrogates (they have
no UTF-8).
Cost: O(characters); embedded images are hashed once (sha256).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raycurate.errors import UserError
from raycurate.plugins import find_plugin
from raycurate.samples.extras import extras_of
from raycurate.samples.parse_images import ImageValue, Places, collect_images
from raycurate.samples.parse_task import find_task
from raycurate.samples.parse_turns import collect_turns
from raycurate.samples.parse_videos import show_frames
from raycurate.samples.quarantine import FaultError, Reason, Reject, excerpt_of
from raycurate.samples.rows import RawRow, ReadError
from raycurate.samples.schema import IMAGE_MARK, Message, Sample
from raycurate.samples.tables import as_turns, check_columns, used_columns
from raycurate.samples.tasks import TaskMap
from raycurate.samples.unread import READ_FIELDS
from raycurate.samples.videos import VideoOptions

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]*")
_MAX_ID_CHARS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseOptions:
    """Limits and choices of ``parse_row``."""

    task_column: str | None = None
    """The column that names the task, in every row that no task rule matches; None: as `parse_task` finds it."""
    folder_tasks: bool = False
    """The folder of a row's file may name its task."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> column of a table that is not known by its columns."""
    keep: tuple[str, ...] = ()
    """Columns whose texts are kept beside the sample; numbers are kept anyway."""
    row_function: str | None = None
    """``package.module:function`` that makes a row of a row."""
    task_map: TaskMap | None = None
    insert_missing_marks: bool = False
    """Put missing marks in front of the first question, instead of refusing the row."""
    drop_leading_answer: bool = False
    """Drop the assistant's turns before the first question (as LLaVA's trainer does), instead of refusing the row."""
    image_root: str | None = None
    """What absolute image paths are made relative to."""
    image_links: tuple[str, ...] = ()
    """Other folders in which absolute image paths may lie."""
    video: VideoOptions | None = None
    """How the frames of videos are read; None: rows with a video are refused."""
    max_turns: int = 256
    max_chars: int = 200_000
    max_images: int = 64

    def __post_init__(self) -> None:
        for name, least in (("max_turns", 2), ("max_chars", 1), ("max_images", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.task_column == "":
            raise UserError("task_column is empty; name a column, or leave it out")
        check_columns(self.columns)


def parse_row(raw: RawRow, options: ParseOptions) -> Sample | Reject:
    """Check and normalise one row. Never raises for what is in the row."""
    value = raw.value
    if isinstance(value, ReadError):
        return Reject(value.fault.reason, value.fault.detail, raw.source_file, raw.source_row, value.excerpt)
    source_id: str | None = None
    try:
        value = _by_function(value, options.row_function)
        if not isinstance(value, Mapping):
            raise FaultError(Reason.NOT_AN_OBJECT, f"the row is {_kind(value)}, not an object")
        row, is_table = as_turns(value, options.columns)
        source_id = _source_id(row.get("id"))
        extra = extras_of(value, READ_FIELDS | set(used_columns(value, options.columns)), options.keep)
        return replace(_sample(raw, row, source_id, is_table, options), extra=extra)
    except FaultError as error:
        fault = error.fault
        return Reject(
            fault.reason, fault.detail, raw.source_file, raw.source_row, excerpt_of(value), source_id=source_id
        )


def _sample(
    raw: RawRow, row: Mapping[str, Any], source_id: str | None, is_table: bool, options: ParseOptions
) -> Sample:
    turns = collect_turns(
        row,
        max_turns=options.max_turns,
        drop_leading_answer=options.drop_leading_answer,
        videos=options.video is not None,
    )
    _check_text(turns.messages, options.max_chars)
    marks = sum(message.text.count(IMAGE_MARK) for message in turns.messages)
    places = Places(options.image_root, options.image_links, raw.root)
    images = collect_images(row, turns.inline_images, options.max_images, marks, places)
    fill = options.insert_missing_marks or turns.marks_are_implied or is_table
    messages = turns.messages
    if turns.videos and options.video is not None:
        messages, images = show_frames(
            messages, images, turns.videos, options.video, start=raw.root, max_images=options.max_images, fill=fill
        )
        marks = len(images)
    messages = _with_marks(messages, marks, len(images), fill)
    task, task_from = _task(raw, row, messages, images, options)
    return Sample(
        messages=messages,
        images=tuple(image.ref for image in images),
        source_id=source_id,
        task=task,
        task_from=task_from,
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
    raw: RawRow, row: Mapping[str, Any], messages: tuple[Message, ...], images: list[ImageValue], options: ParseOptions
) -> tuple[str, str]:
    """The row's task, and what said it."""

    def by_rules() -> str | None:
        if options.task_map is None:
            return None
        prompt = "\n".join(message.text for message in messages if message.role == "user")
        return options.task_map.task_of(images[0].path if images else None, prompt, bool(images))

    return find_task(
        row, raw.source_file, options.task_column, by_rules, _check_characters, by_folder=options.folder_tasks
    )


def _by_function(row: Any, name: str | None) -> Any:
    """What the user's own function makes of a row. Raises ``FaultError`` for a row that it leaves out or fails on."""
    if name is None:
        return row
    try:
        made = find_plugin("row function", name, {})(row)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything; the row is refused for it
        raise FaultError(Reason.ROW_FUNCTION_FAILED, f"{name}: {type(error).__name__}: {error}") from None
    if made is None:
        raise FaultError(Reason.LEFT_OUT, f"{name} gave None")
    return made


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
