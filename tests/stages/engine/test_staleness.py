"""Real runs, one thing changed at a time: what determines a result has it made again or refused, nothing else does."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from raycurate.config import ExtractConfig, IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import required
from raycurate.stages.extract import extract
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests.tiny_vlms import make_tiny_vlm

ROWS, IMAGES = 24, 6


class Made:
    """A run directory with its source, images and model, and the two lines that make samples and features."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, Run(str(folder / "run"))
        self.model = Path(make_tiny_vlm("llava", folder / "model"))
        (folder / "images").mkdir()
        for number in range(IMAGES):
            self.draw(number, number)
        self.write_rows(ROWS)

    def draw(self, number: int, shade: int) -> None:
        Image.new("RGB", (24, 24), (40 * shade, 10, 10)).save(self.folder / "images" / f"{number}.png")

    def write_rows(self, count: int) -> None:
        rows = []
        for i in range(count):
            turns = [{"from": "human", "value": f"<image>\nwhat {i}?"}, {"from": "gpt", "value": f"it is {i}"}]
            rows.append({"id": i, "image": f"{i % IMAGES}.png", "conversations": turns, "task": "a"})
        (self.folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")

    def ingest(self, **settings) -> Manifest:
        values = {"source": str(self.folder / "rows.json"), "images": str(self.folder / "images"), **settings}
        return ingest(self.run, make_config(IngestConfig, {"rows_per_shard": 12, **values}))

    def extract(self, **settings) -> Manifest:
        small = {"max_actors": 1, "cpus_per_actor": 0.5, "cpus_per_loader": 0.5, "window_rows": 12}
        return extract(self.run, make_config(ExtractConfig, {"model": str(self.model), **small, **settings}))


def _touch(path: Path, seconds: float) -> None:
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


def _flip(path: Path) -> None:
    """Change one bit in the middle of a file, and put its time back."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_images_that_were_missing_or_replaced_are_read_by_the_same_line(ray_cluster, tmp_path, caplog):
    """Fetch the missing images and go on; a replaced one is refused by what reads it until it is ingested again."""
    made = Made(tmp_path)
    (tmp_path / "images" / "3.png").unlink()
    first = made.ingest(max_rejected=1.0)
    assert first.quarantined == {"image_missing": ROWS // IMAGES}
    assert made.ingest(max_rejected=0.9).created == first.created, "an execution setting is no other ingest"
    made.draw(3, 3)
    with caplog.at_level(logging.WARNING, "raycurate"):
        complete = made.ingest()
    assert "samples/main: made again: 1 images have changed, for example '3.png'" in caplog.text
    assert (complete.rows_out, complete.quarantined) == (ROWS, {})
    assert complete.fingerprint != first.fingerprint
    select(made.run, make_config(SelectConfig, {"method": "random", "ratio": 0.5}))
    _touch(tmp_path / "images" / "0.png", 1000)
    (tmp_path / "images" / "unrelated.png").write_bytes(b"x")
    assert made.ingest() == complete, "the same content under another time is the same image"
    samples, root = made.run.noun("samples"), str(tmp_path / "images")
    check_images(samples, complete, root)
    made.draw(0, 5)
    with pytest.raises(UserError, match=r"1 images of 'samples/main' were replaced .*'0.png'.*raycurate ingest"):
        made.extract()
    again = made.ingest()
    assert again.fingerprint != complete.fingerprint
    check_images(samples, again, root)
    with pytest.raises(UserError, match="'selection/main' was made from an earlier 'samples/main'"):
        required(made.run.noun("selection"))
    made.draw(0, 0)
    assert made.ingest().fingerprint == complete.fingerprint, "the first images are the first samples"
    assert required(made.run.noun("selection"))
