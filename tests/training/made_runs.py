"""Runs with embedded images and several tasks, for tests that train: samples, a selection, token rows."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from raycurate.run.store import Noun, Run
from raycurate.samples.schema import SAMPLE_SCHEMA, ImageRef, Message, Sample, sample_to_row

TASKS = ("colour", "count", "text")


def png(seed: int) -> bytes:
    """An encoded 28 x 28 noise image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def made_sample(number: int) -> Sample:
    """Sample `number`: its task cycles, `text` rows have no image, answers differ in length."""
    task = TASKS[number % 3]
    answer = "word " * (1 + number % 5) + str(number)
    if task == "text":
        turns = (Message("user", f"say {number}"), Message("assistant", answer))
        return Sample(messages=turns, task=task, source_file="made", source_row=number)
    data = png(number % 7)
    image = ImageRef(data=data, sha=hashlib.sha256(data).hexdigest())
    turns = (Message("user", f"<image>\nwhat {number}?"), Message("assistant", answer))
    if number % 4 == 0:
        turns = (*turns, Message("user", "more?"), Message("assistant", "yes"))
    return Sample(messages=turns, images=(image,), task=task, source_file="made", source_row=number)


def write_run(
    folder: Path | str,
    rows: int,
    *,
    shards: int = 2,
    keep_every: int | None = None,
    other: Mapping[int, Sample] | None = None,
) -> Run:
    """A run with `rows` samples, those of `other` in place of the made ones, and, with `keep_every`, a selection."""
    run = Run(str(folder))
    samples = run.noun("samples")
    samples.begin({"stage": "ingest", "config": {"images": None}, "rows": rows})
    made = [(other or {}).get(number) or made_sample(number) for number in range(rows)]
    parts = np.array_split(np.arange(rows), shards)
    for shard, part in enumerate(parts):
        table = pa.Table.from_pylist([sample_to_row(made[i]) for i in part], schema=SAMPLE_SCHEMA)
        samples.commit_part(shard, table, rows_in=len(part))
    samples.finish(metrics={"tasks": dict(Counter(s.task for s in made))})
    if keep_every is not None:
        _write_selection(run, samples, parts, keep_every)
    return run


def _write_selection(run: Run, samples: Noun, parts: list[np.ndarray], keep_every: int) -> None:
    selection = run.noun("selection")
    fingerprint = samples.require("ingest").fingerprint
    selection.begin({"stage": "select", "config": {"samples": "main"}, "inputs": {"samples": fingerprint}})
    for shard, part in enumerate(parts):
        keys = samples.read_part(shard, ["key"])["key"]
        kept = part % keep_every == 0
        table = pa.table({"key": keys, "kept": pa.array(kept)})
        selection.commit_part(shard, table, rows_in=len(part), extra={"kept": int(kept.sum())})
    selection.finish()


def write_tokens(run: Run, model: str, **settings) -> Noun:
    """The `tokens` noun of every sample of a run, made without Ray."""
    from raycurate.stages.engine.shards import map_here
    from raycurate.stages.tokenize import tokenize
    from raycurate.training.config import FinetuneConfig

    return tokenize(run, FinetuneConfig(model=model, selection=None, **settings), "made", map_here)
