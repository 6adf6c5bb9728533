"""Peak resident memory of the processes of each stage at N and at 10 N rows, for `bench.py`.

Run as a program it measures one scale and prints a line per stage: stage, worker, driver.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil


def resident_bytes(pid: int) -> int:
    """Resident memory of a process without shared memory.

    A worker that has read objects of Ray's object store has their pages in its resident set, up to the size of the
    store, which is a setting of the cluster and not memory of the worker.
    """
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return sum(int(status[name].split()[0]) << 10 for name in ("RssAnon", "RssFile") if name in status)


class PeakMemory:
    """The largest resident memory of any Ray worker and of this process, sampled while the body runs."""

    def __enter__(self) -> PeakMemory:
        self.worker = self.driver = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self.stop.wait(0.05):
            self.driver = max(self.driver, resident_bytes(me.pid))
            for child in me.children(recursive=True):
                try:
                    if child.name().startswith("ray::"):
                        self.worker = max(self.worker, resident_bytes(child.pid))
                except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    continue


def stage_peaks(folder: Path, rows: int, dim: int) -> Iterator[tuple[str, int, int, str]]:
    """Yield stage and process, bytes at 10 N rows, bytes at N, and what they were taken on.

    Each scale runs in a session of its own, so that no worker carries memory over.
    """
    stages: dict[str, list[tuple[int, int]]] = {}
    for scale in (1, 10):
        command = [sys.executable, __file__, str(folder / str(scale)), str(rows * scale), str(dim)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            stage, worker, driver = line.split()
            stages.setdefault(stage, []).append((int(worker), int(driver)))
    for stage, (small, large) in stages.items():
        what = "/ 5 demo rows" if stage in ("ingest", "extract") else f"x {dim}"
        note = f"10 N against N, N={rows} {what}"
        for process, ours, peer in zip(("worker", "driver"), large, small, strict=True):
            yield f"{stage}, {process}", ours, peer, note


def peaks_at(folder: Path, rows: int, dim: int) -> Iterator[tuple[str, int, int]]:
    """Yield stage, bytes of the largest worker and bytes of the driver, at one scale."""
    from raycurate.config import ClusterConfig, ExtractConfig, IngestConfig, RankConfig, SelectConfig
    from raycurate.demo.data import build_demo_dataset, scale_for_rows
    from raycurate.ray_session import ray_session
    from raycurate.run.store import Run
    from raycurate.settings import make_config
    from raycurate.stages.cluster import cluster
    from raycurate.stages.extract import extract
    from raycurate.stages.ingest import ingest
    from raycurate.stages.rank import rank
    from raycurate.stages.select import select

    images = folder / "data"
    build_demo_dataset(images, scale=scale_for_rows(max(rows // 5, 2000)))
    real, made = Run(str(folder / "real")), Run(str(folder / "made"))
    small = {"bucket_mb": 32, "max_rows": 1024}
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("ingest", lambda: ingest(real, _config(IngestConfig, source=f"{images}/train.json", images=str(images)))),
        ("extract", lambda: extract(real, _config(ExtractConfig, model="tiny"))),
        ("cluster", lambda: cluster(made, _config(ClusterConfig, clusters=200, iterations=3, cache_gb=0.05))),
        ("rank", lambda: rank(made, _config(RankConfig, **small))),
        ("rank-by-task", lambda: rank(made, _config(RankConfig, order="mmd_by_task", label="by-task", **small))),
        ("rank-prism", lambda: rank(made, _config(RankConfig, order="prism", label="prism"))),
        ("rank-scalselect", lambda: rank(made, _config(RankConfig, order="scalselect", label="scalselect"))),
        ("rank-tive", lambda: rank(made, _config(RankConfig, order="tive", label="by-tive"))),
        (
            "rank-dics",
            lambda: rank(made, _config(RankConfig, order="dics", options={"ratio": 0.02}, label="by-dics-0.02")),
        ),
        ("select", lambda: select(made, make_config(SelectConfig, {}))),
        ("select-visual-gain", lambda: select(made, _config(SelectConfig, method="visual_gain", label="gain"))),
        ("select-tive", lambda: select(made, _config(SelectConfig, method="tive", features="main", label="tive"))),
        (
            "select-dics",
            lambda: select(made, _config(SelectConfig, method="dics", ratio=0.02, features="main", label="dics")),
        ),
        (
            "select-in-envelope",
            lambda: select(made, _config(SelectConfig, method="coincide", envelope=True, label="in")),
        ),
    ]
    write_samples(made, rows)
    write_features(made, dim)
    write_scores(made, rows)
    for name, step in steps:
        with ray_session(), PeakMemory() as peak:
            step()
        yield name, peak.worker, peak.driver


def _config(kind: Any, **values: Any) -> Any:
    from raycurate.settings import make_config

    return make_config(kind, values)


def write_samples(run: Any, rows: int, part_rows: int = 2048) -> None:
    """Made samples of ``rows`` rows, part by part."""
    from raycurate.samples.schema import Message, Sample, samples_to_table

    samples = run.noun("samples")
    samples.begin({"stage": "ingest", "config": {"images": None}, "rows": rows})
    for shard, begin in enumerate(range(0, rows, part_rows)):
        made = [
            Sample(messages=(Message("user", f"question {i}"), Message("assistant", "answer")), task=f"task {i % 9}")
            for i in range(begin, min(begin + part_rows, rows))
        ]
        samples.commit_part(shard, samples_to_table(made), rows_in=len(made), extra={})
    samples.finish(metrics={"tasks": {f"task {t}": len(range(t, rows, 9)) for t in range(min(9, rows))}})


def write_features(run: Any, dim: int, directions: int = 150) -> None:
    """Made features of the samples that a run has, around so many directions, part by part."""
    import pyarrow as pa

    from raycurate.features.rows import features_column

    samples, features = run.noun("samples"), run.noun("features")
    manifest = samples.require("ingest")
    features.begin({"stage": "extract", "config": {}, "inputs": {"samples": manifest.fingerprint}, "dim": dim})
    centres = np.random.default_rng(0).standard_normal((directions, dim), dtype=np.float32)
    for shard in range(manifest.shards):
        keys, rng = samples.read_part(shard, ["key"])["key"], np.random.default_rng(shard + 1)
        wide = centres[rng.integers(0, directions, len(keys))] + rng.standard_normal((len(keys), dim), dtype=np.float32)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        table = pa.table({"key": keys, "features": features_column(wide.astype(np.float16))})
        features.commit_part(shard, table, rows_in=len(keys), compression="none")
    features.finish(metrics={"dimension": dim, "block_dim": dim // 2, "blocks": 2})


def write_scores(run: Any, rows: int) -> None:
    """Made losses with and without the image, and gradient norms, of the samples of `write_samples`."""
    import pyarrow as pa

    samples = run.noun("samples")
    manifest = samples.require("ingest")
    for group, names in (("token_losses", ("loss", "loss_blind")), ("gradients", ("gradient_norm",))):
        noun = run.noun("row_scores", group)
        noun.begin({"stage": "score", "config": {}, "inputs": {"samples": manifest.fingerprint}, "rows": rows})
        for shard in range(manifest.shards):
            keys, rng = samples.read_part(shard, ["key"])["key"], np.random.default_rng(shard)
            columns = {name: rng.gamma(2.0, 1.0, len(keys)).astype(np.float32) for name in names}
            tokens = {"answer_tokens": rng.integers(1, 9, len(keys))} if group == "token_losses" else {}
            noun.commit_part(shard, pa.table({"key": keys, **columns, **tokens}), rows_in=len(keys))
        noun.finish()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("rows", type=int)
@click.argument("dim", type=int)
def main(folder: Path, rows: int, dim: int) -> None:
    """Measure every stage at one scale."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, worker, driver in peaks_at(folder, rows, dim):
        click.echo(f"{name} {worker} {driver}")


if __name__ == "__main__":
    main()
