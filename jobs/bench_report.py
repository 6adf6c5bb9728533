"""What `raycurate report` takes over many rows: seconds, resident memory, size of the file.

The nouns are made up, as `ingest`, `cluster` and `select` would leave them: rows of 40 tasks in skewed clusters, each
with one of 500 pictures, one row in fifty refused. The report is made in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from PIL import Image

from raycurate.cli.support import ReadableCommand
from raycurate.features.rows import features_column
from raycurate.report.page import write_report
from raycurate.run.store import Run
from raycurate.samples.schema import QUARANTINE_SCHEMA, SAMPLE_SCHEMA
from raycurate.selection.diversity import top_tasks

TASKS, PICTURES, SHARD_ROWS, REFUSED = 40, 500, 8192, 50
REASONS = ("image_missing", "image_truncated", "empty_turn", "wrong_role_order")
MIB = 2**20


@click.group(help=__doc__)
def main() -> None:
    """Make nouns, report on them."""


@main.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for runs and reports.")
@click.option("--rows", "sizes", default="66500,665000", help="Rows of each run.")
@click.option("--clusters", default=10_000)
@click.option("--dimension", default=1024, help="Of the centroids.")
def bench(out: Path, sizes: str, clusters: int, dimension: int) -> None:
    """Make a run of each size and report on it.

    \b
    Example:
      python jobs/bench_report.py bench --out /tmp/report
    """
    for rows in map(int, sizes.split(",")):
        run = out / str(rows)
        if not run.exists():
            make_run(Run(str(run)), rows, clusters, dimension)
        command = [sys.executable, __file__, "one", str(run)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        click.echo(
            f"{rows:>9,} rows, {clusters:,} clusters: {found['seconds']:.1f} s ({found['cpu']:.1f} s of processor), "
            f"{found['resident'] / MIB:.0f} MiB resident, file {found['size'] / MIB:.2f} MiB"
        )


@main.command(hidden=True)
@click.argument("run")
def one(run: str) -> None:
    """Report on a run and tell what it took as JSON."""
    started = time.monotonic()
    place = write_report(Run(run))
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "seconds": time.monotonic() - started,
        "cpu": used.ru_utime + used.ru_stime,
        "resident": used.ru_maxrss * 1024,
        "size": Path(place).stat().st_size,
    }
    click.echo(json.dumps(found))


def make_run(run: Run, rows: int, clusters: int, dimension: int) -> None:
    """Samples, clusters and a selection that fit each other."""
    rng = np.random.default_rng(0)
    folder = Path(run.uri) / "pictures"
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    weight_K = rng.gamma(1.0, 1.0, clusters) + 0.01
    cluster_N = rng.choice(clusters, rows, p=weight_K / weight_K.sum())
    task_N = (cluster_N * 7 + (rng.random(rows) < 0.2) * rng.integers(0, TASKS, rows)) % TASKS
    rank_N = _ranks(cluster_N)
    kept_N = rank_N < np.maximum(1, np.bincount(cluster_N, minlength=clusters) // 5)[cluster_N]
    samples, selection = run.noun("samples"), run.noun("selection")
    samples.begin({"stage": "ingest", "config": {"images": str(folder)}})
    config = {"method": "coincide", "ratio": 0.2, "samples": "main", "clusters": "main", "options": {}, "seed": 0}
    selection.begin({"stage": "select", "config": config, "made_from": {}})
    for shard, part in enumerate(np.array_split(np.arange(rows), max(1, -(-rows // SHARD_ROWS)))):
        refused = _refused(len(part) // REFUSED, shard)
        count = len(part) + refused.num_rows
        samples.commit_part(shard, _samples(part, task_N), rows_in=count, rejects=refused, row_group_rows=1024)
        columns = (cluster_N[part], task_N[part], kept_N[part], rank_N[part])
        selection.commit_part(shard, _selected(part, *columns), rows_in=len(part), extra=_counted(*columns[:2]))
    samples.finish(metrics={"tasks": {f"task {t}": int(n) for t, n in enumerate(np.bincount(task_N, minlength=TASKS))}})
    _tables(run, rng, (cluster_N, task_N, kept_N), clusters, dimension)
    selection.finish(metrics={"kept": int(kept_N.sum()), "target": int(kept_N.sum())})


def _ranks(cluster_N: np.ndarray) -> np.ndarray:
    """Place of each row within its cluster."""
    order = np.argsort(cluster_N, kind="stable")
    starts = np.searchsorted(cluster_N[order], np.arange(cluster_N.max() + 1))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - starts[cluster_N[order]]
    return ranks


def _key(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}-0"


def _samples(part: np.ndarray, task_N: np.ndarray) -> pa.Table:
    text = "a picture of several things that stand beside each other on a table " * 6
    rows = [
        {
            "key": _key(int(i)),
            "source_id": f"row {i}",
            "task": f"task {task_N[i]}",
            "messages": [
                {"role": "user", "text": f"<image>\nWhat is number {i}?", "train": True},
                {"role": "assistant", "text": f"{text}{i}", "train": True},
            ],
            "images": [{"path": f"{i % PICTURES}.jpg", "data": None, "sha": None}],
            "source_file": "made.json",
            "source_row": int(i),
            "order": int(i).to_bytes(8, "big"),
        }
        for i in part
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)


def _refused(count: int, shard: int) -> pa.Table:
    rows = [
        {
            "key": None,
            "source_id": f"refused {shard} {i}",
            "source_file": "made.json",
            "source_row": i,
            "reason": REASONS[i % len(REASONS)],
            "detail": "what is wrong with it",
            "excerpt": '{"id": 1, "conversations": []}' * 10,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def _selected(
    part: np.ndarray, cluster_N: np.ndarray, task_N: np.ndarray, kept_N: np.ndarray, rank_N: np.ndarray
) -> pa.Table:
    return pa.table(
        {
            "key": [_key(int(i)) for i in part],
            "source_id": [f"row {i}" for i in part],
            "task": [f"task {t}" for t in task_N],
            "kept": kept_N,
            "cluster": cluster_N.astype(np.int64),
            "rank": rank_N,
            "score": rank_N.astype(np.float64),
            "reason": ["within_quota" if kept else "over_quota" for kept in kept_N],
        }
    )


def _counted(cluster_N: np.ndarray, task_N: np.ndarray) -> dict[str, Any]:
    """What a shard of `select` tells of itself."""
    pairs = Counter(zip(cluster_N.tolist(), task_N.tolist(), strict=True))
    return {"cluster_tasks": [[cluster, f"task {task}", count] for (cluster, task), count in pairs.items()]}


def _tables(run: Run, rng: np.random.Generator, columns: tuple[np.ndarray, ...], clusters: int, dimension: int) -> None:
    """The tables of tasks and clusters, and the centroids."""
    cluster_N, task_N, kept_N = columns
    size_K = np.bincount(cluster_N, minlength=clusters)
    kept_K = np.bincount(cluster_N, kept_N, minlength=clusters).astype(np.int64)
    rows_T, kept_T = np.bincount(task_N, minlength=TASKS), np.bincount(task_N, kept_N, minlength=TASKS)
    names = [f"task {t}" for t in range(TASKS)]
    share_T = {"share_before": rows_T / rows_T.sum(), "share_after": kept_T / kept_T.sum()}
    run.noun("selection").write_table(
        "tasks.parquet", pa.table({"task": names, "rows": rows_T, "kept": kept_T.astype(np.int64), **share_T})
    )
    within: dict[int, Counter[str]] = {}
    for (cluster, task), count in Counter(zip(cluster_N.tolist(), task_N.tolist(), strict=True)).items():
        within.setdefault(cluster, Counter())[names[task]] += count
    tops = [", ".join(f"{t} {n}" for t, n in top_tasks(within.get(k, {}))) for k in range(clusters)]
    values = {"transferability": rng.random(clusters), "density": rng.random(clusters), "top_tasks": tops}
    table = {"cluster": np.arange(clusters), "size": size_K, "quota": kept_K, "kept": kept_K, **values}
    run.noun("selection").write_table("clusters.parquet", pa.table(table))
    noun = run.noun("clusters")
    noun.begin({"stage": "cluster", "config": {"features": "main"}})
    centroids_KD = rng.standard_normal((clusters, dimension)).astype(np.float32)
    centroids_KD /= np.linalg.norm(centroids_KD, axis=1, keepdims=True)
    centroids = {"cluster": np.arange(clusters), "centroid": features_column(centroids_KD, np.float32)}
    noun.write_table("centroids.parquet", pa.table({**centroids, "size": size_K}))
    noun.finish()


if __name__ == "__main__":
    main()
