"""Checkpoints reach a remote run directory whole, count only then, and come back."""

from __future__ import annotations

import json

import pyarrow.fs as pafs

from raycurate.training.checkpoints import COMPLETE
from raycurate.training.mirror import Mirror


def save(folder, step: int) -> None:
    """A checkpoint folder and its marker, as the loop leaves them."""
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    (checkpoint / "shard").mkdir(parents=True)
    (checkpoint / "shard" / "rank0").write_text(f"state {step}")
    (folder / "checkpoints" / COMPLETE).write_text(json.dumps({"checkpoint": f"checkpoint-{step}"}))


def test_last_checkpoint_comes_back_on_another_machine(tmp_path):
    """What one machine sent, another fetches: the newest complete one, old ones removed beyond the limit."""
    remote = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    (tmp_path / "bucket").mkdir()
    first = Mirror(tmp_path / "a", remote, "run/models/main")
    waits: list[int] = []
    for step in (10, 9, 20, 100):
        save(tmp_path / "a", step)
        first.send_checkpoint(f"checkpoint-{step}", wait_for_all=lambda: waits.append(1), first=True, keep=2)
    assert len(waits) == 4
    kept = sorted(path.name for path in (tmp_path / "bucket/run/models/main/checkpoints").iterdir())
    assert kept == ["checkpoint-100", "checkpoint-20", COMPLETE]
    second = Mirror(tmp_path / "b", remote, "run/models/main")
    second.fetch_checkpoint()
    assert (tmp_path / "b/checkpoints/checkpoint-100/shard/rank0").read_text() == "state 100"
    assert json.loads((tmp_path / "b/checkpoints" / COMPLETE).read_text()) == {"checkpoint": "checkpoint-100"}


def test_unmarked_checkpoint_does_not_count(tmp_path):
    """A checkpoint whose marker was never sent is not fetched, and a stale local one is removed."""
    remote = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    (tmp_path / "bucket").mkdir()
    save(tmp_path / "a", 10)
    Mirror(tmp_path / "a", remote, "m").send_checkpoint("checkpoint-10", wait_for_all=lambda: None, first=False, keep=1)
    save(tmp_path / "b", 5)
    Mirror(tmp_path / "b", remote, "m").fetch_checkpoint()
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_final_files_are_sent(tmp_path):
    """Folders and files that are there are copied, others are left out."""
    remote = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    (tmp_path / "bucket").mkdir()
    (tmp_path / "a" / "final").mkdir(parents=True)
    (tmp_path / "a" / "final" / "config.json").write_text("{}")
    Mirror(tmp_path / "a", remote, "m").send("final", "merged")
    assert (tmp_path / "bucket/m/final/config.json").read_text() == "{}"
    assert not (tmp_path / "bucket/m/merged").exists()
