"""Small videos whose frames say their number by their brightness."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

STEP = 12
"""Brightness between two frames, far more than a codec loses."""


def write_film(
    path: Path,
    frames: int = 16,
    fps: int = 8,
    group: int = 8,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    lit: bool = False,
) -> Path:
    """Write a video of grey frames, the i-th of brightness ``(i % 20) * STEP``; ``lit``: white in the upper half."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size = "yuv420p", group
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), number % 20 * STEP, np.uint8)
            grey[: size[1] // 2 * lit] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a file that holds sound alone."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def numbers_of(images: list[bytes]) -> list[int]:
    """The number of each frame, modulo 20."""
    return [round(float(np.asarray(Image.open(io.BytesIO(data))).mean()) / STEP) for data in images]
