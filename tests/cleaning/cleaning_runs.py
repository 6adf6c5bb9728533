"""A source with copies of every kind, and a test set that some of its rows tell of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from raycurate.config import IngestConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.ingest import ingest
from tests.cleaning.pictures_cases import cropped, reencoded, scene
from tests.nouns import read_all

LONG = "what is the small brown dog on the left side of the wooden table doing with the red ball"
SEA = "Tell me a fact about the deep blue sea and its fish."
ALWAYS = "all year round, in every part of the world and at any depth."
ANSWER = "it is chewing on it while the cat looks away"


def _row(name: str, question: str, answer: str, *images: str) -> dict[str, Any]:
    marks = "<image>" * len(images)
    turns = [{"from": "human", "value": f"{marks}\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "task": name[0], "conversations": turns} | ({"image": list(images)} if images else {})


def _pictures(folder: Path) -> None:
    for number in range(8):
        scene(number, (160, 120)).save(folder / f"{number}.png")
    first = Image.open(folder / "0.png")
    reencoded(first, 60).save(folder / "0-again.png")
    ImageChops.offset(first, 1, 0).save(folder / "0-moved.png")
    first.save(folder / "0.bmp")
    first.rotate(180).save(folder / "0-turned.png")


TRAIN = [
    _row("a1", "What is it?", "A boat", "0.png"),
    _row("a2", "what  is IT?", "a boat", "0.bmp"),  # the same pixels in another file, other case and spaces
    _row("a3", "What is it?", "A boat", "0-again.png"),
    _row("a4", "What is it?", "A boat", "0-moved.png"),
    _row("a5", "What is it?", "A car", "0-moved.png"),  # contradicts them
    _row("a6", "What is it?", "A boat", "0-turned.png"),
    _row("a7", "What is it?", "A boat", "1.png"),
    _row("b1", LONG + "?", ANSWER, "2.png"),
    _row("b2", LONG + " now?", ANSWER, "2.png"),
    _row("b3", LONG + "?", "no", "2.png"),
    _row("b4", LONG + "?", ANSWER, "3.png"),
    _row("c1", "Which one is older?", "the first", "4.png", "5.png"),
    _row("c2", "which one is older?", "The first", "4.png", "5.png"),
    _row("c3", "Which one is older?", "the first", "5.png", "4.png"),
    _row("d1", SEA, f"The cafe\u0301 is wet, cold and very dark, {ALWAYS}"),
    _row("d2", SEA.upper(), f"the  caf\u00e9 is wet, cold and very dark, {ALWAYS}"),
    _row("d3", SEA, f"The cafe\u0301 is wet, cold and very very dark, {ALWAYS}"),
    _row("d4", "Tell me a fact about the high white hills.", f"The cafe\u0301 is wet, cold and very dark, {ALWAYS}"),
]
GROUPS = [{"a1", "a2", "a3", "a4"}, {"b1", "b2"}, {"c1", "c2"}, {"d1", "d2", "d3"}]
"""Rows that are copies of each other; all others stand alone."""


def write_source(folder: Path, rows: list[dict[str, Any]] = TRAIN) -> Path:
    """`rows.json` and its pictures."""
    _pictures(folder)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def ingested(folder: Path, out: Path, *, rows_per_shard: int = 4, **settings: Any) -> Run:
    """A run with the samples of a source."""
    run = Run(str(out))
    values = {"source": f"{folder}/rows.json", "images": str(folder), "rows_per_shard": rows_per_shard, **settings}
    ingest(run, make_config(IngestConfig, values))
    return run


def marks_of(run: Run, label: str) -> dict[str, dict[str, Any]]:
    """What is said of each row, by its id in the source."""
    return {row["source_id"]: row for row in read_all(run.noun("marks", label)).to_pylist()}


def crop_of(folder: Path, name: str, number: int) -> None:
    """A picture without 5 % of its sides."""
    cropped(Image.open(folder / f"{number}.png"), 0.05, 0.2, 0.8).save(folder / name)
