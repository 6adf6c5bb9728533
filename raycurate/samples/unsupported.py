"""What a row carries that nothing here reads: the row is refused with its own reason, never read without that part.

A video row whose video is dropped trains as text, a grounding row teaches the literal text `<bbox>`. Columns, content
blocks and marks of every spelling that is in use are looked for; an empty value is nothing and loses nothing.

Cost: a few dictionary look-ups a row, one search for marks in the turns that hold a `<`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from raycurate.samples.marks import IMAGE_TAG
from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import IMAGE_MARK, Message

VIDEO, AUDIO, GROUNDING, TOOLS, MEDIA = (
    Reason.UNSUPPORTED_VIDEO,
    Reason.UNSUPPORTED_AUDIO,
    Reason.UNSUPPORTED_GROUNDING,
    Reason.UNSUPPORTED_TOOLS,
    Reason.UNSUPPORTED_MEDIA,
)
COLUMNS = {
    **dict.fromkeys(("video", "videos", "video_path", "video_paths", "video_url", "video_file", "video_id"), VIDEO),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_paths", "audio_url", "audio_file"), AUDIO),
    **dict.fromkeys(("sound", "sounds", "speech"), AUDIO),
    **dict.fromkeys(("objects", "grounding"), GROUNDING),
    **dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), TOOLS),
    **dict.fromkeys(("pdf", "pdfs", "point_cloud", "point_clouds", "pointcloud", "mesh"), MEDIA),
}
"""Columns of rows and of turns; the first one that is there gives the reason."""
ROLES = dict.fromkeys(
    ("tool", "tools", "function", "function_call", "tool_call", "observation", "tool_response"), TOOLS
)
BLOCKS = {
    **dict.fromkeys(("video", "video_url", "input_video", "video_path"), VIDEO),
    **dict.fromkeys(("audio", "audio_url", "input_audio", "audio_path", "sound"), AUDIO),
    **dict.fromkeys(("tool_use", "tool_result", "tool_call", "function_call"), TOOLS),
    **dict.fromkeys(("file", "document", "pdf", "input_file", "file_url", "point_cloud"), MEDIA),
    **dict.fromkeys(("bbox", "ref", "box", "point"), GROUNDING),
}
"""Types of content blocks."""
SUFFIXES = {
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"), VIDEO),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus", ".aac"), AUDIO),
    **dict.fromkeys((".pdf", ".ply", ".obj", ".glb"), MEDIA),
}
"""Of files that are named where an image is expected, or lie beside a row in an archive."""
WHAT = {
    VIDEO: "a video",
    AUDIO: "an audio clip",
    GROUNDING: "grounding objects",
    TOOLS: "tool calls",
    MEDIA: "a document or another medium",
}
_MARKS = (
    # At the beginning or end of a turn: inside of a text, `<video>` may be HTML.
    (re.compile(r"\A\s*<(video|video_pad)>|<(video|video_pad)>\s*\Z"), VIDEO),
    (re.compile(r"\A\s*<(audio|sound|speech)>|<(audio|sound|speech)>\s*\Z"), AUDIO),
    (re.compile(r"<ref-object>|<bbox>"), GROUNDING),
)


def refuse_columns(record: Mapping[str, Any], where: str, read: Collection[str] = ()) -> None:
    """Raise ``FaultError`` for a row or a turn with a column of a medium that is not empty, but for those ``read``."""
    if COLUMNS.keys().isdisjoint(record):
        return
    for name, reason in COLUMNS.items():
        if name in record and name not in read and not is_nothing(record[name]):
            raise FaultError(reason, f"{where} carries {WHAT[reason]} ('{name}'), which is not read")


def refuse_role(role: Any) -> None:
    """Raise ``FaultError`` for a turn of a tool."""
    if isinstance(role, str) and role.lower() in ROLES:
        raise FaultError(TOOLS, f"a turn has the role {role[:40]!r}: conversations with tools are not read")


def refuse_block(kind: Any) -> None:
    """Raise ``FaultError`` for a content block of a medium."""
    reason = BLOCKS.get(kind.lower()) if isinstance(kind, str) else None
    if reason is not None:
        raise FaultError(reason, f"a content block has the type {kind[:40]!r}: {WHAT[reason]}, which is not read")


def refuse_path(path: str) -> None:
    """Raise ``FaultError`` for the name of another medium where an image is expected."""
    reason = SUFFIXES.get(path[path.rfind(".") :].lower())
    if reason is not None:
        raise FaultError(reason, f"{path[-100:]!r} is named as an image and is {WHAT[reason]}, which is not read")


def refuse_marks(messages: Iterable[Message], *, videos: bool = False) -> None:
    """Raise ``FaultError`` for a mark that stands for another medium than an image, or a video where they are read."""
    for turn, message in enumerate(messages):
        if message.text.count("<") == message.text.count(IMAGE_MARK):
            continue
        for pattern, reason in _MARKS:
            if videos and reason is VIDEO and message.role == "user":
                continue
            found = pattern.search(message.text)
            if found:
                mark = found[0].strip()
                raise FaultError(reason, f"turn {turn} holds the mark {mark}, which stands for {WHAT[reason]}")
        tag = IMAGE_TAG.search(message.text)
        if tag:
            detail = f"turn {turn}, of the {message.role}, names an image, {tag[0][:100]}; only questions show images"
            raise FaultError(Reason.IMAGE_MARK_MISMATCH, detail)


def is_nothing(value: Any) -> bool:
    """Whether a value says that there is nothing: null, NaN, empty text, or containers of such values."""
    if value is None or value != value:  # NaN, as pandas writes a gap
        return True
    if isinstance(value, str):
        return value.strip().lower() in ("", "none", "nan", "null", "[]", "{}")
    if isinstance(value, bytes):
        return not value
    if isinstance(value, Mapping):
        return all(is_nothing(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_nothing(each) for each in value)
    return False
