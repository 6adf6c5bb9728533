"""ingest with videos: their frames are the rows' images, whatever the slices; what cannot be read is counted."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.ingest import ingest
from tests.drivers import kill_at_commit
from tests.films import numbers_of, write_film
from tests.nouns import read_all

pytest.importorskip("av")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows of four videos, one that is not there, one of text."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_film(folder / "films" / f"{number}.mp4", frames=4 + 4 * number)
    (folder / "films" / "cut.mp4").write_bytes((folder / "films" / "3.mp4").read_bytes()[:900])
    names = [*(f"{number % 4}.mp4" for number in range(8)), "gone.mp4", "cut.mp4"]
    rows = [_row(f"<video>\nq{number}", videos=[name]) for number, name in enumerate(names)]
    (folder / "rows.json").write_text(json.dumps([*rows, _row("text alone")]))
    return folder


def _row(text, **columns):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]
    return {"messages": turns, "task": "t", **columns}


def _ingest(run, data, **settings):
    values = {"source": f"{data}/rows.json", "images": f"{data}/films", "max_rejected": 1.0, **settings}
    noun = Run(str(run)).noun("samples")
    return noun, ingest(Run(str(run)), make_config(IngestConfig, values))


def test_frames_are_the_images_of_the_rows(data, tmp_path):
    """Two per video, in their order; a file that is gone and one that is cut are in the quarantine."""
    noun, manifest = _ingest(tmp_path / "run", data, video_frames=2)
    assert manifest.rows_out == 9
    assert manifest.quarantined == {"video_missing": 1, "video_corrupt": 1}
    for row in read_all(noun).to_pylist():
        shown = numbers_of([image["data"] for image in row["images"]])
        number = int(row["messages"][0]["text"][-1]) % 4 if shown else 0
        assert shown == ([1 + number, 3 * (1 + number)] if shown else [])


def test_slices_do_not_matter(data, tmp_path):
    """The same tables, byte for byte."""
    tables = [
        read_all(_ingest(tmp_path / str(rows), data, video_frames=2, slice_rows=rows)[0]).to_pylist()
        for rows in (2, 64)
    ]
    assert tables[0] == tables[1]


def test_kill_9_while_videos_are_read_changes_no_byte(data, tmp_path):
    """As frames are decoded, then as shards are written: what was decoded stays, and the rest gives the same bytes."""
    words = ["ingest", f"{data}/rows.json", "--images", f"{data}/films", "--out", str(tmp_path / "killed")]
    for setting in ("video_frames=2", "slice_rows=4", "rows_per_shard=4", "max_rejected=1.0"):
        words += ["--set", setting]
    samples = tmp_path / "killed" / "samples" / "main"
    kill_at_commit("*/samples/main/work/parsed/*.json", 1, *words)
    decoded = {path: path.stat().st_mtime_ns for path in samples.glob("work/parsed/00000.*")}
    assert len(decoded) == 2
    kill_at_commit("*/samples/main/records/*.json", 1, *words)
    assert decoded == {path: path.stat().st_mtime_ns for path in samples.glob("work/parsed/00000.*")}
    made = [
        _ingest(tmp_path / name, data, video_frames=2, slice_rows=4, rows_per_shard=4)[1]
        for name in ("killed", "whole")
    ]
    assert made[0].metrics == made[1].metrics
    assert made[0].quarantined == {"video_missing": 1, "video_corrupt": 1}
    parts = [sorted((tmp_path / name).glob("samples/main/part-*")) for name in ("killed", "whole")]
    assert len(parts[0]) > 1
    assert [part.read_bytes() for part in parts[0]] == [part.read_bytes() for part in parts[1]]


def test_without_the_setting_rows_with_videos_are_refused(data, tmp_path):
    """Also where it is zero."""
    for frames in (None, 0):
        _, manifest = _ingest(tmp_path / str(frames), data, video_frames=frames)
        assert manifest.quarantined == {"unsupported_video": 10}


def test_the_bounds_are_those_of_the_settings(data, tmp_path):
    """The films last 0.5, 1, 1.5 and 2 seconds and have 64 x 48 pixels."""
    noun, manifest = _ingest(tmp_path / "short", data, video_frames=2, video_max_seconds=1.2, video_max_side=32)
    assert manifest.quarantined["video_too_large"] == 4
    shown = [image["data"] for row in read_all(noun).to_pylist() for image in row["images"]]
    assert {Image.open(io.BytesIO(data)).size for data in shown} == {(32, 24)}


def test_videos_of_a_mixture_lie_below_the_root_of_their_source(data, tmp_path):
    """As its images do."""
    (tmp_path / "rows.json").write_text(json.dumps([_row("<video>?", video="1.mp4")]))
    sources = {"clips": {"path": f"{tmp_path}/rows.json", "root": "films"}}
    values = {"sources": sources, "images": str(data), "video_frames": 2}
    assert ingest(Run(str(tmp_path / "run")), make_config(IngestConfig, values)).rows_out == 1


def test_a_missing_decoder_is_told_before_rows_are_read(data, tmp_path, monkeypatch):
    """Nothing of the run is there then."""
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match="PyAV"):
        _ingest(tmp_path / "run", data, video_frames=2)
    assert not (tmp_path / "run" / "samples").exists()
