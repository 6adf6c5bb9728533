"""A dataset of drawn images and three tasks with a random LLaVA to read it, and a recipe for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from raycurate.run.store import Run
from tests.nouns import read_all
from tests.tiny_vlms import make_tiny_vlm

IMAGES = 60


def write_data(folder: Path, rows: int) -> Path:
    """``rows.json``, its images, the folder ``model``, and the same rows dealt to seven files in ``pieces``."""
    make_tiny_vlm("llava", folder / "model")
    rng = np.random.default_rng(1)
    for i in range(IMAGES):
        image = Image.new("RGB", (40, 40), tuple(int(v) for v in rng.integers(0, 255, 3)))
        ImageDraw.Draw(image).ellipse((5, 5, 10 + i % 25, 30), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
        image.save(folder / f"{i}.png")
    made = []
    for i in range(rows):
        mark = "" if i % 9 == 0 else "<image>\n"
        question = ("what colour is it?", "how many things are there?", "say something about the sea")[i % 3]
        turns = [
            {"from": "human", "value": mark + question},
            {"from": "gpt", "value": f"it is {i % 11} " * (1 + i % 4)},
        ]
        image_of = {"image": f"{i % IMAGES}.png"} if mark else {}
        made.append({"id": i, "conversations": turns, "task": f"task {i % 3}"} | image_of)
    (folder / "rows.json").write_text(json.dumps(made), encoding="utf-8")
    pieces = folder / "pieces"
    pieces.mkdir()
    for number in range(7):
        (pieces / f"{number}.json").write_text(json.dumps(made[number::7]), encoding="utf-8")
    return folder


def recipe_values(out: str, data: str, model: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """A whole curation of the data under the folder or URI ``out``; ``changes`` by section."""
    recipe: dict[str, Any] = {
        "run": f"{out}/run",
        "ray": {"num_cpus": 4, "object_store_mb": 128},
        "ingest": {"source": f"{data}/rows.json", "images": data, "rows_per_shard": 40},
        "extract": {
            "model": str(model),
            "window_rows": 16,
            "batch_rows": 8,
            "max_actors": 2,
            "cpus_per_actor": 0.5,
            "cpus_per_loader": 1,  # few: the start of each is what takes time
        },
        "cluster": {"clusters": 12, "iterations": 8, "tolerance": 0, "workers": 2, "cpus_per_worker": 0.5},
        "select": {"method": "coincide", "ratio": 0.25, "options": {"temperature": 0.1}},
        "export": {"out": f"{out}/coreset.json"},
    }
    for section, values in changes.items():
        recipe[section].update(values)
    return recipe


def selection_of(run: Run) -> list[tuple]:
    """Every row with all that was decided about it."""
    table = read_all(run.noun("selection")).sort_by("key")
    columns = ("key", "kept", "cluster", "rank", "score", "reason")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
