"""A cluster of several nodes on one machine: a head without CPUs, where the driver runs, and nodes that work."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from raycurate.config import IngestConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.ingest import ingest
from tests.drawn_data import write_data

ROWS = 240
DEADLINE = 300.0
STORE = 100 << 20


class Nodes:
    """The simulated machines. Nodes can be added in the main thread only."""

    def __init__(self, count: int, cpus: float) -> None:
        self.cpus = cpus
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
        self.workers: list[Any] = []
        self.grow(count)
        ray.init(address=self.cluster.address, logging_level="ERROR", log_to_driver=False)

    def grow(self, count: int) -> None:
        """Add nodes until there are so many."""
        while len(self.workers) < count:
            self.workers.append(self.cluster.add_node(num_cpus=self.cpus, object_store_memory=STORE))
        self.cluster.wait_for_nodes(60)

    def strike(self, node_id: str) -> None:
        """Kill a node: no grace, all its processes and objects gone."""
        (struck,) = [node for node in self.workers if node.node_id == node_id]
        self.cluster.remove_node(struck, allow_graceful=False)
        self.workers.remove(struck)

    def end(self) -> None:
        """Stop every process."""
        ray.shutdown()
        self.cluster.connected = False
        self.cluster.shutdown()

    def of_process(self, pid: int) -> str | None:
        """The node that a worker process belongs to: its parent is the node's raylet. None for other clusters'."""
        parents = {parent.pid for parent in psutil.Process(pid).parents()}
        for node in self.workers:
            for processes in node.all_processes.values():
                if any(info.process.pid in parents for info in processes):
                    return str(node.node_id)
        return None

    def of_processes_named(self, name: str) -> set[str]:
        """The nodes with a process of this name."""
        found = {
            self.of_process(process.info["pid"])
            for process in psutil.process_iter(["pid", "cmdline"])
            if name in " ".join(process.info["cmdline"] or [])
        }
        return {node for node in found if node is not None}


@contextlib.contextmanager
def working_nodes(count: int, folder: Path, rows_per_shard: int) -> Iterator[tuple[Nodes, Run]]:
    """So many nodes of two CPUs, and a run of drawn rows that they have ingested; `FOLDER/model` can read them."""
    write_data(folder, ROWS)
    run = Run(str(folder / "run"))
    nodes = Nodes(count, cpus=2)
    try:
        source = {"source": str(folder / "rows.json"), "images": str(folder), "rows_per_shard": rows_per_shard}
        ingest(run, make_config(IngestConfig, source))
        yield nodes, run
    finally:
        nodes.end()


def aside(stage: Callable[[], Any], watch: Callable[[], bool]) -> None:
    """Run a stage in another thread, and call `watch` here until it says that it has seen enough."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            stage()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + DEADLINE
    while not watch():
        assert thread.is_alive(), f"the stage ended first: {raised}"
        assert time.monotonic() < deadline, "never got there"
        time.sleep(0.02)
    thread.join()
    if raised:
        raise raised[0]


def under_fire(nodes: Nodes, stage: Callable[[], Any], victim: Callable[[], str | None]) -> None:
    """Run a stage; once ``victim`` names a node, kill it."""

    def watch() -> bool:
        node_id = victim()
        if node_id is not None:
            nodes.strike(node_id)
        return node_id is not None

    aside(stage, watch)


def times(noun: Any, shards: list[int]) -> dict[int, int]:
    """When the parts were written."""
    return {shard: os.stat(noun.part_path(shard)).st_mtime_ns for shard in shards}


def same(run: Run, noun: str, columns: list[str], labels: tuple[str, str]) -> bool:
    """Whether two nouns of a kind hold the same rows."""
    one, other = (run.noun(noun, label) for label in labels)
    shards = one.require(noun).shards
    return all(one.read_part(n, columns).equals(other.read_part(n, columns)) for n in range(shards))
