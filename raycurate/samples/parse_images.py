"""The image references of a raw row: paths that stay below the image root, or embedded bytes.

A path is checked as text here, so that no reference is ever opened that could leave the root: no absolute path
(POSIX, drive letter, UNC), no ``..``, no URL or data URI, no NUL or other control character. Links inside the root
are checked when the image is opened (``images.ImageRoot``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import ImageRef

_MAX_PATH_CHARS = 4096
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class ImageValue:
    """A reference, and the path that came with it (also where the bytes are embedded): task rules look at it."""

    ref: ImageRef
    path: str | None


def collect_images(row: Mapping[str, Any], inline: Sequence[Any], max_images: int) -> list[ImageValue]:
    """The images of a row in the order of their marks. Raises ``FaultError``."""
    named = [_as_list(row[name]) for name in ("images", "image") if row.get(name) is not None]
    named = [values for values in named if values]
    if len(named) == 2 and named[0] != named[1]:
        raise FaultError(Reason.WRONG_TYPE, "'image' and 'images' disagree; a row may have one of them")
    values = named[0] if named else list(inline)
    if len(values) > max_images:
        raise FaultError(Reason.TOO_MANY_IMAGES, f"the row has {len(values)} images; at most {max_images} are accepted")
    return [_image(value) for value in values]


def check_path(path: str) -> str:
    """The path with ``.`` and doubled slashes removed. Raises ``FaultError`` for one that could leave the root."""
    if not path.strip():
        raise FaultError(Reason.IMAGE_MISSING, "the image path is empty")
    shown = repr(path[:100])
    parts = re.split(r"[/\\]", path)
    if len(path) > _MAX_PATH_CHARS:
        raise FaultError(Reason.OVERLONG, f"the image path has {len(path)} characters")
    if _CONTROL.search(path):
        raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"the image path {shown} holds a control character")
    if _SCHEME.match(path):
        raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"{shown} is a URL or has a drive; images are paths below the root")
    if parts[0] == "" or parts[0].startswith("~") or ".." in parts:
        raise FaultError(Reason.IMAGE_PATH_ESCAPE, f"the image path {shown} leads out of the image root")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise FaultError(Reason.INVALID_UTF8, f"the image path {shown} holds a lone surrogate") from None
    normal = "/".join(part for part in path.split("/") if part not in ("", "."))
    if not normal:
        raise FaultError(Reason.IMAGE_MISSING, f"the image path {shown} names no file")
    return normal


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _image(value: Any) -> ImageValue:
    if isinstance(value, dict):
        data = value.get("bytes")
        path = value.get("path")
        if data is None:
            value = path
        elif isinstance(data, bytes):
            return _embedded(data, path if isinstance(path, str) else None)
    if isinstance(value, bytes):
        return _embedded(value, None)
    if value is None:
        raise FaultError(Reason.IMAGE_MISSING, "an image has neither bytes nor a path")
    if not isinstance(value, str):
        raise FaultError(Reason.WRONG_TYPE, f"an image reference is of type {type(value).__name__}, not a path")
    path = check_path(value)
    return ImageValue(ImageRef(path=path), path)


def _embedded(data: bytes, path: str | None) -> ImageValue:
    if not data:
        raise FaultError(Reason.IMAGE_CORRUPT, "an embedded image has no bytes")
    return ImageValue(ImageRef(data=data, sha=hashlib.sha256(data).hexdigest()), path)
