"""What `raycurate ingest` takes for rows with videos: rows per second, memory, and what a kill -9 loses.

Films of two seconds with a moving pattern are made, one per row. They are ingested by one process, without a cluster:
once to the end, and once with a kill -9 after a third of the slices. Then one film of an hour is asked for eight
frames, by jumping and by decoding it whole.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from raycurate.cli.support import ReadableCommand
from raycurate.config import IngestConfig
from raycurate.run.store import Run
from raycurate.samples import videos
from raycurate.samples.images import ImageRoot
from raycurate.samples.opening import VIDEO_SLICE_ROWS
from raycurate.samples.videos import VideoOptions, frames_of
from raycurate.settings import make_config
from raycurate.stages import ingest as stage

FRAMES, RATE, SIDE = 8, 16, 64
MIB = 2**20


@click.group(help=__doc__)
def main() -> None:
    """Make films, ingest them."""


@main.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for films and runs.")
@click.option("--rows", default=1000)
def bench(out: Path, rows: int) -> None:
    """Make films, ingest them, and say what it took.

    \b
    Example:
      python jobs/bench_videos.py bench --out /tmp/videos
    """
    if not (out / "rows.json").exists():
        make_rows(out, rows)
    size = sum(path.stat().st_size for path in (out / "films").iterdir())
    click.echo(f"{rows:,} films of 2 s, {SIDE} x {SIDE}, {size / MIB:.1f} MiB; load {os.getloadavg()[0]:.1f}")
    tell("ingest", rows, ingest(out, "whole"))
    kept = killed(out, "cut", max(1, rows // VIDEO_SLICE_ROWS // 3))
    tell(f"the rest after a kill -9 at {kept} slices", rows, ingest(out, "cut"))
    same = table_of(out / "whole").equals(table_of(out / "cut"))
    click.echo(f"the tables are {'equal' if same else 'NOT equal'}")
    tell_hour(out)


@main.command(hidden=True)
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("name")
def one(out: Path, name: str) -> None:
    """Ingest in this process and tell what it took as JSON."""
    stage.VIDEO_BYTES_HERE = 1 << 30
    started, before = time.monotonic(), time.process_time()
    values = {"source": str(out / "rows.json"), "images": str(out / "films"), "video_frames": FRAMES}
    stage.ingest(Run(str(out / name)), make_config(IngestConfig, values))
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {"wall": time.monotonic() - started, "cpu": time.process_time() - before, "resident": used.ru_maxrss << 10}
    click.echo(json.dumps(found))


def tell(what: str, rows: int, found: dict[str, float]) -> None:
    """One line."""
    click.echo(
        f"{what}: {found['cpu']:.1f} s of one processor ({rows / found['cpu']:.0f} rows/s), {found['wall']:.1f} s by "
        f"the clock, {found['resident'] / MIB:.0f} MiB resident"
    )


def make_rows(out: Path, rows: int) -> None:
    """One film per row."""
    (out / "films").mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(rows):
        write_film(out / "films" / f"{number}.mp4", 2 * RATE, number)
        turns = [
            {"role": "user", "content": f"<video>\nWhat moves in {number}?"},
            {"role": "assistant", "content": "it"},
        ]
        made.append({"messages": turns, "videos": [f"{number}.mp4"], "task": "t"})
    (out / "rows.json").write_text(json.dumps(made))


def write_film(path: Path, frames: int, seed: int) -> None:
    """A film of a pattern that moves by a pixel a frame."""
    import av

    pattern = (
        np.random.default_rng(seed)
        .integers(0, 255, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.roll(pattern, number % SIDE, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def ingest(out: Path, name: str) -> dict[str, float]:
    """Ingest in a process of its own."""
    command = [sys.executable, __file__, "one", str(out), name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def killed(out: Path, name: str, slices: int) -> int:
    """Kill an ingest once so many slices are noted; how many there were."""
    process = subprocess.Popen([sys.executable, __file__, "one", str(out), name])
    while len(noted := list((out / name).rglob("work/parsed/*.json"))) < slices:
        if process.poll() is not None:
            raise click.ClickException(f"ingest of {name} ended before {slices} slices were noted")
        time.sleep(0.02)
    process.kill()
    process.wait()
    return len(noted)


def table_of(run: Path) -> pa.Table:
    """All rows that an ingest made."""
    noun = Run(str(run)).noun("samples")
    manifest = noun.manifest()
    assert manifest is not None
    return pa.concat_tables([noun.read_part(part) for part in range(manifest.shards)])


def tell_hour(out: Path) -> None:
    """Eight frames of a film of an hour."""
    if not (out / "hour.mp4").exists():
        write_film(out / "hour.mp4", 3600 * RATE, 0)
    found = []
    for jump in (videos._JUMP_SECONDS, float("inf")):
        videos._JUMP_SECONDS, videos.MAX_DECODED = jump, 1 << 30
        videos._of_file.cache_clear()
        started = time.monotonic()
        frames = frames_of("hour.mp4", VideoOptions(frames=FRAMES, root=ImageRoot(str(out))))
        found.append((time.monotonic() - started, [frame.sha for frame in frames]))
    same = "the same" if found[0][1] == found[1][1] else "OTHER"
    click.echo(f"{FRAMES} frames of an hour: {found[0][0]:.2f} s by jumping, {found[1][0]:.2f} s whole, {same} frames")


if __name__ == "__main__":
    main()
