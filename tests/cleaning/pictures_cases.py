"""Pictures with something to see, and what happens to pictures: another encoding, another size, a crop."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def scene(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A smooth background with shapes on it."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        w, h = rng.integers(15, 70, 2)
        color = tuple(int(v) for v in rng.integers(0, 255, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=color)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reencoded(image: Image.Image, quality: int = 75) -> Image.Image:
    """The same as a JPEG."""
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def cropped(image: Image.Image, part: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    """Without `part` of each side, of which `x` on the left and `y` at the top."""
    left, top = part * x * image.width, part * y * image.height
    size = image.width * (1 - part), image.height * (1 - part)
    return image.crop((round(left), round(top), round(left + size[0]), round(top + size[1])))
