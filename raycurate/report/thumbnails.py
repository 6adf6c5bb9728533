"""Small copies of images as data URIs. Whatever an image file holds, only the pixels of a new one reach the page."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from raycurate.samples.images import ImageLimits, ImageRoot, load_image
from raycurate.samples.quarantine import FaultError
from raycurate.samples.schema import ImageRef

SIDE = 96
QUALITY = 70


def thumbnail(image: dict[str, Any], root: ImageRoot, limits: ImageLimits) -> str | None:
    """An image of a sample as a data URI of at most 96 x 96 pixels; None where it cannot be read any more."""
    try:
        data = root.read(ImageRef(path=image["path"], data=image["data"]), limits.max_bytes)
        picture = load_image(data, limits)
    except (FaultError, OSError):
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return data_uri(picture)


def data_uri(picture: Image.Image) -> str:
    """Pixels as a WebP data URI."""
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"
