"""The image references of a raw row: paths that stay below the image root, or embedded bytes.

A path is checked as text here, so that no reference is ever opened that could leave the root: no ``..``, no absolute
path (POSIX, drive letter, UNC) or URL but below the root itself or a folder that is named behind it, no NUL or other
control character. Links inside the root are checked when the image is opened (``images.ImageRoot``). Bytes may be
written as base64: a ``data:`` URI, the text under ``bytes``, or a reference that is too long for the name of a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import ImageRef
from raycurate.samples.unsupported import is_nothing, refuse_path

_MAX_PATH_CHARS = 4096
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z]:[/\\]|(https?|s3|gs|hf|ftp|javascript|blob):")
_DATA_URI = re.compile(r"data:image/[A-Za-z0-9.+-]+(;[A-Za-z0-9=._-]+)*;base64,", re.IGNORECASE)
_LONGEST_NAME = 255
"""Of a file, in bytes: a longer text without a slash in it is none."""
_NAMES = ("image", "image_url", "video", "video_url", "path", "url", "base64", "source", "data", "value")
"""What an object calls that which it stands for: OpenAI's, Qwen's, ms-swift's, Anthropic's, LLaMA-Factory's."""
_REMOTE = re.compile(r"(https?|ftp|hf):", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the paths of a row may lie."""

    root: str | None = None
    """The image root, which absolute paths are made relative to."""
    links: tuple[str, ...] = ()
    """Other folders, below which absolute paths may lie as they are."""
    start: str = ""
    """The folder that relative paths of the row count from, below the root as a rule."""


@dataclass(frozen=True, slots=True)
class ImageValue:
    """A reference, and the path that came with it (also where the bytes are embedded): task rules look at it."""

    ref: ImageRef
    path: str | None


def collect_images(
    row: Mapping[str, Any], inline: Sequence[Any], max_images: int, marks: int, places: Places
) -> list[ImageValue]:
    """The images of a row in the order of their marks. Raises ``FaultError``.

    Args:
        row: as it was read.
        inline: references that stand inside content blocks.
        max_images: most images of a row.
        marks: image marks in the text. References that name nothing ("", "None", null) are dropped where the others
            are as many as the marks.
        places: where its paths may lie.
    """
    named = [_as_list(row[name]) for name in ("images", "image") if row.get(name) is not None]
    named = [[_said(value) for value in values] for values in named if values]
    if len(named) == 2:  # one of them may be there for the rows without an image
        named = [values for values in named if not is_nothing(values)] or named[:1]
    if len(named) == 2 and named[0] != named[1]:
        raise FaultError(Reason.WRONG_TYPE, "'image' and 'images' disagree; a row may have one of them")
    values = named[0] if named else list(inline)
    if named and other_paths(values, inline):
        detail = f"the columns name the images {str(values)[:80]}, the content blocks {str(list(inline))[:80]}"
        raise FaultError(Reason.WRONG_TYPE, f"{detail}; which are meant is not said")
    if len(values) > max_images:
        raise FaultError(Reason.TOO_MANY_IMAGES, f"the row has {len(values)} images; at most {max_images} are accepted")
    something = [value for value in values if not is_nothing(value)]
    if len(something) == marks:
        values = something
    return [_image(value, places) for value in values]


def reference_in(value: Any) -> Any:
    """What an object says that it stands for: a path, a URL, base64, or the object with its bytes; else the value.

    ``{"url": ...}``, ``{"image_url": {"url": ...}}`` and the like. None for an object that does not say.
    """
    while isinstance(value, Mapping) and value.get("bytes") is None:
        name = next((name for name in _NAMES if not is_nothing(value.get(name))), None)
        value = None if name is None else value[name]
        if name in ("base64", "data") and isinstance(value, str):
            return {"bytes": value}
    return value


def _said(value: Any) -> Any:
    """`reference_in` of a column's value. Raises ``FaultError`` for an object whose words nobody knows."""
    found = reference_in(value)
    if found is None and not is_nothing(value):
        detail = f"an image is an object of {', '.join(map(str, value))[:80]}; read are bytes, {', '.join(_NAMES[:-1])}"
        raise FaultError(Reason.IMAGE_MISSING, detail)
    return found


def other_paths(values: Sequence[Any], inline: Sequence[Any]) -> bool:
    """Whether columns and content blocks both name files, and others. Bytes may stand for the files of the blocks."""
    return bool(inline) and list(values) != list(inline) and all(isinstance(each, str) for each in (*values, *inline))


def check_path(path: str, places: Places) -> str:
    """The path of an image below the root, with ``.`` and doubled slashes removed; an absolute one below the links.

    Raises:
        FaultError: a path that leads out of these, a URL, or the name of another medium.
    """
    normal = below_root(path, places)
    refuse_path(normal)
    return normal


def below_root(path: str, places: Places) -> str:
    """The path of any file, as `check_path`. Raises ``FaultError``."""
    if not path.strip():
        raise FaultError(Reason.IMAGE_MISSING, "the path is empty")
    shown = repr(path[:100])
    if len(path) > _MAX_PATH_CHARS:
        raise FaultError(Reason.OVERLONG, f"the path has {len(path)} characters")
    if _CONTROL.search(path):
        raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"the path {shown} holds a control character")
    path = _relative(path, shown, places)
    start = "/" if path.startswith("/") else ""
    parts = re.split(r"[/\\]", path.removeprefix(start))
    if parts[0] == "" or (parts[0].startswith("~") and len(parts) > 1) or ".." in parts:
        raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"the path {shown} leads out of the image root")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise FaultError(Reason.INVALID_UTF8, f"the path {shown} holds a lone surrogate") from None
    normal = "/".join(part for part in path.split("/") if part not in ("", "."))
    if not normal:
        raise FaultError(Reason.IMAGE_MISSING, f"the path {shown} names no file")
    return start + normal


def _relative(path: str, shown: str, places: Places) -> str:
    """A path as it was, or relative to the root where it is absolute and lies below it; absolute below the links."""
    if path.lower().startswith("file:"):
        path = unquote(urlsplit(path).path)
    elif places.start and not path.startswith("/") and not _SCHEME.match(path):
        path = f"{places.start}/{path}"
    root = places.root
    if _SCHEME.match(path) or path.startswith("/"):
        base = None if root is None else root.removeprefix("file://").rstrip("/") + "/"
        plain = re.sub(r"/(\.?/)+", "/", path) if path.startswith("/") else path
        if base is not None and plain.startswith(base):
            return plain[len(base) :]
        if plain.startswith(tuple(f"{link.rstrip('/')}/" for link in places.links)):
            return plain
        if _REMOTE.match(path):
            told = (
                f"{shown} is on the web; files are read from disk: download it, and name it by its path below --images"
            )
            raise FaultError(Reason.IMAGE_REMOTE, told)
        if path.startswith("/"):
            where = f"the image root {root}" if root else "the image root, which is not given (--images FOLDER)"
            more = f"; name its folder behind it: --images {root}:FOLDER" if root and "://" not in root else ""
            raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"the path {shown} lies outside of {where}{more}")
        raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"{shown} is a URL or has a drive, and does not lie below --images")
    return path


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _image(value: Any, places: Places) -> ImageValue:
    if isinstance(value, dict):
        path, value = value.get("path"), value["bytes"]
        data = _from_base64(value) if isinstance(value, str) else value
        if not isinstance(data, bytes):
            raise FaultError(Reason.WRONG_TYPE, f"the bytes of an image are of type {type(data).__name__}")
        return _embedded(data, path if isinstance(path, str) else None)
    if isinstance(value, bytes):
        return _embedded(value, None)
    if value is None:
        raise FaultError(Reason.IMAGE_MISSING, "an image has neither bytes nor a path")
    if not isinstance(value, str):
        raise FaultError(Reason.WRONG_TYPE, f"an image reference is of type {type(value).__name__}, not a path")
    ends = (value[:_LONGEST_NAME], value[-_LONGEST_NAME:])
    if value[:5].lower() == "data:" or (len(value) > _LONGEST_NAME and all(map(_BASE64.fullmatch, ends))):
        return _embedded(_from_base64(value), None)
    path = check_path(value, places)
    return ImageValue(ImageRef(path=path), path)


def _from_base64(text: str) -> bytes:
    """The bytes of an image that is written as text or ``data:`` URI, as long as the row that holds it may be."""
    if text[:5].lower() == "data:":
        uri = _DATA_URI.match(text)
        if uri is None:
            detail = f"{text[:40]!r} is no image in base64: 'data:image/...;base64,...'"
            raise FaultError(Reason.IMAGE_UNSUPPORTED, detail)
        text = text[uri.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise FaultError(Reason.IMAGE_CORRUPT, f"an embedded image is no base64 text: {error}") from None


def _embedded(data: bytes, path: str | None) -> ImageValue:
    if not data:
        raise FaultError(Reason.IMAGE_CORRUPT, "an embedded image has no bytes")
    return ImageValue(ImageRef(data=data, sha=hashlib.sha256(data).hexdigest()), path)
