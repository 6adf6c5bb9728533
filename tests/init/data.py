"""A small dataset as a user has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def rows_of(number: int) -> list[dict[str, Any]]:
    """Rows of three tasks; four rows share an image."""
    return [
        {
            "id": row,
            "task": "abc"[row % 3],
            "image": f"images/{row // 4}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is {row}?"},
                {"from": "gpt", "value": f"It is {row}."},
            ],
        }
        for row in range(number)
    ]


def write_data(folder: Path, rows: int) -> Path:
    """`train.json` and the folder `images` beside it."""
    (folder / "images").mkdir()
    for number in range(-(-rows // 4)):
        Image.new("RGB", (24, 24), (number * 7 % 256, 90, 200)).save(folder / "images" / f"{number}.png")
    (folder / "train.json").write_text(json.dumps(rows_of(rows)), encoding="utf-8")
    return folder / "train.json"
