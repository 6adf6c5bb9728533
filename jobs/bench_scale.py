"""A run of many rows on this machine, stage by stage: seconds, rows a second, memory of a process, bytes written.

    python jobs/bench_scale.py FOLDER 1000000

Rows are text and are read from JSON Lines; their features are made (around 800 directions), so that what is measured is
what grows with rows and not a model. Each stage has a session of its own, whose start does not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_memory import PeakMemory, write_features
from rich.console import Console
from rich.table import Table

from raycurate.config import ClusterConfig, ExportConfig, IngestConfig, RankConfig, SelectConfig
from raycurate.ray_session import ray_session
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.cluster import cluster
from raycurate.stages.export import export
from raycurate.stages.ingest import ingest
from raycurate.stages.rank import rank
from raycurate.stages.select import select

TASKS = 40


def write_rows(path: Path, rows: int) -> None:
    """JSON Lines of as many rows: 40 tasks of unequal size, a question and an answer of a few words each."""
    shares = 1.0 / np.arange(1, TASKS + 1)
    tasks = np.random.default_rng(0).choice(TASKS, rows, p=shares / shares.sum())
    with path.open("w", encoding="utf-8") as file:
        for row, task in enumerate(tasks):
            asked = {
                "from": "human",
                "value": f"Which of the {task + 2} things of list {row} is the heaviest, and why?",
            }
            told = {"from": "gpt", "value": f"The {row % 97}th, as it is made of lead and fills {row % 13} litres."}
            file.write(json.dumps({"id": str(row), "task": f"task {task:02d}", "conversations": [asked, told]}) + "\n")


def stages_of(folder: Path, dim: int, **clusters: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and call of every stage, in their order."""
    run = Run(str(folder / "run"))

    def configured(kind: Any, **values: Any) -> Any:
        return make_config(kind, values)

    source = configured(IngestConfig, source=str(folder / "rows.jsonl"))
    yield "ingest", lambda: ingest(run, source)
    yield "(features made)", lambda: write_features(run, dim, directions=800)
    yield "cluster", lambda: cluster(run, configured(ClusterConfig, **clusters))
    yield "rank", lambda: rank(run, configured(RankConfig))
    yield "rank by task", lambda: rank(run, configured(RankConfig, order="mmd_by_task", label="by-task"))
    yield "select", lambda: select(run, configured(SelectConfig, ratio=0.2))
    yield "export", lambda: export(run, configured(ExportConfig, out=str(folder / "coreset.json")))


def bytes_in(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.command(context_settings={"show_default": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("rows", type=int)
@click.option("--dim", default=2560, help="Numbers of a row's features.")
@click.option("--clusters", default=1000, help="Of k-means.")
@click.option("--project", default=256, help="Numbers that k-means projects a row to.")
@click.option("--iterations", default=10, help="Of k-means.")
def main(folder: Path, rows: int, dim: int, clusters: int, project: int, iterations: int) -> None:
    """Measure every stage at one scale."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    table = Table("stage", "seconds", "rows/s", "largest worker MB", "driver MB", "written MB")
    before = bytes_in(folder)
    for name, step in stages_of(folder, dim, clusters=clusters, project=project, iterations=iterations):
        with ray_session(), PeakMemory() as peak:
            started = time.monotonic()
            step()
            seconds = time.monotonic() - started
        after = bytes_in(folder)
        numbers = (seconds, rows / seconds, peak.worker / 1e6, peak.driver / 1e6, (after - before) / 1e6)
        before = after
        table.add_row(name, *(f"{number:,.1f}" if number < 10 else f"{number:,.0f}" for number in numbers))
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
