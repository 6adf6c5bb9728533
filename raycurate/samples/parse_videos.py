"""The videos of a raw row: which it names, and the row with frames in their place.

A video stands where its mark does: ``<video>``, a content block, or ``<image>`` in rows that have as many of those as
videos and no image besides (LLaVA-Video). Each mark becomes one ``<image>`` per frame, a newline between two, as
images that follow each other are written elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raycurate.samples.marks import VIDEO_MARK
from raycurate.samples.parse_images import ImageValue, Places, below_root, other_paths, reference_in
from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import IMAGE_MARK, Message
from raycurate.samples.unsupported import is_nothing
from raycurate.samples.videos import VideoOptions, frames_of

VIDEO_COLUMNS = ("videos", "video")
VIDEO_BLOCKS = ("video", "video_url")


def videos_of(row: Mapping[str, Any], inline: Sequence[Any]) -> list[Any]:
    """The references of a row's videos in the order of their marks: of a column, else of content blocks.

    Raises:
        FaultError: places that name different videos.
    """
    values = [row[name] for name in VIDEO_COLUMNS if not is_nothing(row.get(name))]
    named = [value if isinstance(value, list) else [value] for value in values]
    if len(named) == 2 and named[0] != named[1]:
        raise FaultError(Reason.WRONG_TYPE, "'video' and 'videos' disagree; a row may have one of them")
    if named and other_paths(named[0], inline):
        detail = f"a column names the videos {str(named[0])[:80]}, the content blocks {str(list(inline))[:80]}"
        raise FaultError(Reason.WRONG_TYPE, f"{detail}; which are meant is not said")
    return named[0] if named else list(inline)


def show_frames(
    messages: tuple[Message, ...],
    images: Sequence[ImageValue],
    videos: Sequence[Any],
    options: VideoOptions,
    *,
    start: str,
    max_images: int,
    fill: bool,
) -> tuple[tuple[Message, ...], list[ImageValue]]:
    """The messages of a row with frames in place of its videos, and all its images in the order of their marks.

    Args:
        messages: of the row, with the marks of its images and videos.
        images: of the row, without the videos.
        videos: what the row says of them, at least one.
        options: how they are read.
        start: the folder that relative paths count from.
        max_images: most images of a row, frames among them.
        fill: put the marks of a row without any in front.

    Raises:
        FaultError: as many marks as there should be are not there, too many frames, a video that cannot be used.
    """
    wanted = len(images) + options.frames * len(videos)
    if wanted > max_images:
        detail = f"{len(videos)} video(s) of {options.frames} frames and {len(images)} image(s) are {wanted} images"
        raise FaultError(Reason.TOO_MANY_IMAGES, f"{detail}; at most {max_images} are accepted")
    places = Places(options.root.root, options.root.links, start)
    messages = _marked(messages, len(images), len(videos), fill)
    values = [_reference(video, places) for video in videos]
    frames = [[ImageValue(ref, path) for ref in frames_of(value, options)] for value, path in values]
    pictures, films = iter(images), iter(frames)
    shown: list[ImageValue] = []
    made: list[Message] = []
    for message in messages:
        if message.role != "user":
            made.append(message)
            continue
        parts = []
        for number, part in enumerate(message.text.split(VIDEO_MARK)):
            if number:
                film = next(films)
                shown += film
                parts.append("\n".join([IMAGE_MARK] * len(film)))
            shown += [next(pictures) for _ in range(part.count(IMAGE_MARK))]
            parts.append(part)
        made.append(replace(message, text="".join(parts)))
    return tuple(made), shown


def _marked(messages: tuple[Message, ...], images: int, videos: int, fill: bool) -> tuple[Message, ...]:
    """The messages with one mark per image and one per video."""
    questions = [message for message in messages if message.role == "user"]
    films = sum(message.text.count(VIDEO_MARK) for message in questions)
    pictures = sum(message.text.count(IMAGE_MARK) for message in questions)
    if (films, pictures) == (0, videos) and not images:
        return tuple(
            replace(each, text=each.text.replace(IMAGE_MARK, VIDEO_MARK)) if each.role == "user" else each
            for each in messages
        )
    if (films, pictures) == (0, 0) and fill and not images:
        first = messages.index(questions[0])
        text = f"{VIDEO_MARK}\n" * videos + questions[0].text
        return (*messages[:first], replace(questions[0], text=text), *messages[first + 1 :])
    if (films, pictures) != (videos, images):
        hint = "; insert_missing_marks=true puts missing marks first" if (films, pictures, images) == (0, 0, 0) else ""
        detail = f"{films} {VIDEO_MARK} mark(s) for {videos} video(s), {pictures} {IMAGE_MARK} for {images} image(s)"
        raise FaultError(Reason.IMAGE_MARK_MISMATCH, detail + hint)
    return messages


def _reference(value: Any, places: Places) -> tuple[str | bytes, str | None]:
    """A path below the root or the bytes of a file, and the path that came with it."""
    value = reference_in(value)
    if isinstance(value, Mapping):
        path = value.get("path")
        value, path = value.get("bytes") or path, path if isinstance(path, str) else None
        if isinstance(value, bytes):
            return value, path
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, str) and value.strip():
        path = below_root(value, places)
        return path, path
    detail = f"a video is named by a value of type {type(value).__name__}, not by a path"
    raise FaultError(Reason.WRONG_TYPE if value is not None else Reason.VIDEO_MISSING, detail)
