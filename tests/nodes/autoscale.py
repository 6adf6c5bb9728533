"""The program behind `test_more_nodes.py`'s last test: extraction on a cluster that starts with its head alone.

    python tests/nodes/autoscale.py FOLDER     writes FOLDER/found.json: nodes before, at most and after; rows by node

Ray's own autoscaler, with the provider whose nodes are processes of this machine. The cluster has its own ports and
folder, and only processes that it started are ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray

from raycurate.config import ExtractConfig, IngestConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import extract as extract_stage
from raycurate.stages.ingest import ingest
from raycurate.stages.workers.extract import ExtractionActor
from tests.drawn_data import write_data

ROWS = 240
EMPTY: dict[str, Any] = {
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{name: [] for name in ("initialization_commands", "setup_commands", "head_setup_commands")},
    **{name: [] for name in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
}
CLUSTER: dict[str, Any] = {
    **EMPTY,
    "cluster_name": "simulated",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.1,
    "file_mounts_sync_continuously": False,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
}


class SlowActor(ExtractionActor):
    """Slow enough that a second node is worth its start."""

    def _extract(self, row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(1)
        return super()._extract(row)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def autoscaling_cluster(folder: Path) -> Iterator[str]:
    """A head with the autoscaler; its address."""
    config, port = folder / "cluster.json", free_port()
    provider = {**CLUSTER["provider"], "gcs_address": f"{ray.util.get_node_ip_address()}:{port}"}
    config.write_text(json.dumps({**CLUSTER, "provider": provider}), encoding="utf-8")
    names = ("dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", f"--port={port}", "--num-cpus=0"]
    command += [f"--{name}={free_port()}" for name in names]
    command += [f"--autoscaling-config={config}", "--object-store-memory=100000000"]
    settings = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0"}
    with tempfile.TemporaryDirectory(prefix="rc") as short, open(folder / "head.log", "w", encoding="utf-8") as log:
        environment = {**os.environ, **settings, "RAY_TMPDIR": short}
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        os.environ["RAY_TMPDIR"] = short
        try:
            yield f"127.0.0.1:{port}"
        finally:
            ray.shutdown()
            started = psutil.Process(head.pid).children(recursive=True)
            head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(timeout=30)
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def connect(address: str) -> None:
    """Join the cluster once it is up."""
    deadline = time.monotonic() + 120
    while True:
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
            return
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(1)


def worker_nodes() -> int:
    """Nodes that are alive, without the head."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


def main(folder: Path) -> None:
    """Ingest and extract, and count nodes meanwhile."""
    write_data(folder, ROWS)
    run = Run(str(folder / "run"))
    with autoscaling_cluster(folder) as address:
        connect(address)
        before, most, over = worker_nodes(), 0, threading.Event()

        def count() -> None:
            nonlocal most
            while not over.wait(0.5):
                most = max(most, worker_nodes())

        counter = threading.Thread(target=count)
        counter.start()
        source = {"source": str(folder / "rows.json"), "images": str(folder), "rows_per_shard": 20}
        ingest(run, make_config(IngestConfig, source))
        extract_stage.ExtractionActor = SlowActor
        pool = {"window_rows": 4, "batch_rows": 4, "min_actors": 1, "max_actors": 2, "cpus_per_actor": 1.5}
        made = extract_stage.extract(run, make_config(ExtractConfig, {"model": str(folder / "model"), **pool}))
        deadline = time.monotonic() + 120
        while worker_nodes() and time.monotonic() < deadline:
            time.sleep(1)
        over.set()
        counter.join()
        found: dict[str, Any] = {"before": before, "most": most, "after": worker_nodes(), "rows": made.rows_out}
        found["rows_by_node"] = made.metrics["rows_by_node"]
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
