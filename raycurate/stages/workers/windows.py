"""The windows that a loader prepares a shard in: bounded in rows, and in the bytes of their processed images.

A window is held as pixels until its last batch is packed. 256 rows at 336 px are 0.2 GB, at 13 tiles of 448 px 4 GB, so
a window ends where its distinct images could take more than the bound. What an image takes is measured on the model's
own processor (`ImageReader.largest_bytes`), so the windows of a shard follow from its rows, the model and the settings
alone, whoever loads it.
"""

from __future__ import annotations

import pyarrow as pa

DEFAULT_MB = 1024
PROCESS_BYTES = 512 << 20
"""What a loader's process takes before its first window, rounded up. Measured, without the pages of libraries that
processes share: Ray and Ray Data 92 MiB, torch 121, transformers, the classes of a model and a small processor 130, and
99 for a vocabulary of 150,000 tokens."""


def windows_of(rows: pa.Table, window_rows: int, image_bytes: int, most_mb: int | None) -> list[tuple[int, int]]:
    """``(first row, last row + 1)`` of each window; one that is empty where there are no rows.

    Args:
        rows: of `samples`, with their images.
        window_rows: most rows of a window.
        image_bytes: of a processed image.
        most_mb: most megabytes of a window's images; None: `DEFAULT_MB`. A row that takes more is a window by itself.
    """
    images = rows["images"].combine_chunks()
    offsets = images.offsets.to_pylist() if rows.num_rows else [0]
    values = images.flatten() if rows.num_rows else None
    names: list[str] = []
    if values is not None:
        pairs = zip(values.field("path").to_pylist(), values.field("sha").to_pylist(), strict=True)
        names = [path or sha for path, sha in pairs]
    most = max(1, (most_mb or DEFAULT_MB) * (1 << 20) // max(1, image_bytes))
    first_name = offsets[0]
    windows: list[tuple[int, int]] = []
    start, held = 0, set[str]()
    for row in range(rows.num_rows):
        shown = set(names[offsets[row] - first_name : offsets[row + 1] - first_name])
        if row > start and (row - start >= window_rows or len(held | shown) > most):
            windows.append((start, row))
            start, held = row, set()
        held |= shown
    return [*windows, (start, rows.num_rows)]


def loader_memory(window_rows: int, image_bytes: int, most_mb: int | None) -> int:
    """The bytes that a loader asks Ray for; rows of up to four images, the images and the batches made of them."""
    window = min((most_mb or DEFAULT_MB) << 20, 4 * window_rows * image_bytes)
    return 2 * window + PROCESS_BYTES
