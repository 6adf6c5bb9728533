"""The program behind `test_more_nodes.py`: the same work on one, two and four nodes of two CPUs.

    python tests/nodes/grow_nodes.py FOLDER     writes FOLDER/found.json: where the work was done and what came out

Every actor and training process asks for more than half of a node, so each needs a node of its own. Loaders may be
slower than one actor, and of idle actors Ray Data feeds the same one again and again. So an extraction actor holds its
first batch until every actor has one. Each is handed up to four shards at once, so there are more than three can hold.
The DeepSpeed training runs once with its two processes on one node and once with one process on each of two.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from raycurate.config import ClusterConfig, ExtractConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import extract as extract_stage
from raycurate.stages.cluster import cluster
from raycurate.stages.finetune import finetune
from raycurate.stages.workers.extract import ExtractionActor
from raycurate.training.config import FinetuneConfig
from tests.nodes.simulated import DEADLINE, Nodes, aside, same, working_nodes

COUNTS = (1, 2, 4)
MOST_OF_A_NODE = 1.5
SHARD_ROWS = 10
TRAINER = "RayTrainWorker"


def together(count: int, folder: Path) -> type[ExtractionActor]:
    """An actor that begins when so many have a batch."""
    folder.mkdir()

    class Waiting(ExtractionActor):
        def __call__(self, table: pa.Table) -> pa.Table:
            (folder / ray.get_runtime_context().get_actor_id()).touch()
            deadline = time.monotonic() + DEADLINE
            while len(list(folder.iterdir())) < count:
                assert time.monotonic() < deadline, "an actor was handed nothing"
                time.sleep(0.1)
            return super().__call__(table)

    return Waiting


def curate(run: Run, folder: Path, count: int) -> dict[str, Any]:
    """Extract and cluster with one actor on each node."""
    label = f"nodes{count}"
    pool = {"window_rows": 16, "batch_rows": 8, "min_actors": count, "max_actors": count, "label": label}
    pool |= {"cpus_per_actor": MOST_OF_A_NODE, "cpus_per_loader": 2 - MOST_OF_A_NODE}
    extract_stage.ExtractionActor = together(count, folder / label)
    made = extract_stage.extract(
        run,
        make_config(ExtractConfig, {"model": str(folder / "model"), **pool}),
    )
    settings = {"clusters": 8, "iterations": 6, "tolerance": 0.0, "features": label, "threads": 1, "label": label}
    grouped = cluster(
        run, make_config(ClusterConfig, {**settings, "workers": count, "cpus_per_worker": MOST_OF_A_NODE})
    )
    first = f"nodes{COUNTS[0]}"
    return {
        "extract": made.metrics["rows_by_node"],
        "cluster": grouped.metrics["rows_by_node"],
        "same_features": same(run, "features", ["key", "features"], (first, label)),
        "same_clusters": same(run, "clusters", ["key", "cluster", "similarity"], (first, label)),
    }


def train(nodes: Nodes, run: Run, folder: Path, label: str, **settings: Any) -> dict[str, Any]:
    """A training, the nodes that its processes were on, and its loss curve."""
    config = FinetuneConfig(
        model=str(folder / "model"),
        selection=None,
        method="full",
        batch_rows=16,
        learning_rate=1e-3,
        logging_steps=1,
        threads=1,
        trackers=(),
        label=label,
        **settings,
    )
    seen: set[str] = set()
    noun = run.noun("models", label)

    def watch() -> bool:
        """Once it trains, see where; its end is the end of the watch."""
        try:
            trains = json.loads(Path(noun.folder, "step.json").read_text()) is not None
        except (OSError, ValueError):
            return False
        seen.update(nodes.of_processes_named(TRAINER))
        return trains

    started = time.monotonic()
    aside(lambda: finetune(run, config), watch)
    history = noun.read_json("history.json") or []
    return {
        "nodes": len(seen),
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "seconds": time.monotonic() - started,
    }


def main(folder: Path) -> None:
    """The same on more and more nodes."""
    found: dict[str, Any] = {}
    with working_nodes(1, folder, rows_per_shard=SHARD_ROWS) as (nodes, run):
        for count in COUNTS:
            nodes.grow(count)
            found[f"curate {count}"] = curate(run, folder, count)
            spread = {"workers": count, "cpus_per_worker": MOST_OF_A_NODE}
            found[f"train {count}"] = train(nodes, run, folder, f"nodes{count}", **spread)
            if count <= 2:  # two processes fit on a node, or need one each
                zero3 = {"workers": 2, "cpus_per_worker": 1 if count == 1 else MOST_OF_A_NODE, "deepspeed": "zero3"}
                found[f"zero3 {count}"] = train(nodes, run, folder, f"zero{count}", **zero3)
            sys.stderr.write(f"{count} {found}\n")
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
