"""The program behind `test_submission.py`: a real `ray job submit` of the demo's recipe, killed and submitted again.

    python tests/nodes/submit_and_kill.py FOLDER     writes FOLDER/found.json: how the jobs ended, and what they made

Starts a head node of its own (`ray start --head --block`, free ports, token authentication), submits the recipe, kills
the driver with kill -9 once the first features are committed, submits the same line again, and compares with a third
job that nobody disturbed. Only processes that it started are ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from raycurate.demo.data import build_demo_dataset, scale_for_rows
from raycurate.run.store import Run
from tests.drawn_data import selection_of

ROOT = Path(__file__).parents[2]
ROWS = 1500
START_SECONDS = 180.0
JOB_SECONDS = 1800.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.contextmanager
def head_node(short: Path, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A head node with its files in a short folder and its log in another; the address of its dashboard."""
    port, dashboard, http, grpc, client = free_ports(5)
    options = {
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": http,  # two agents on one machine cannot share the default
        "dashboard-agent-grpc-port": grpc,
        "ray-client-server-port": client,
        "temp-dir": short,
        "num-cpus": 2,
        "object-store-memory": 200 << 20,
    }
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with open(folder / "head.log", "w", encoding="utf-8") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while ray_job(["list"], address, environment).returncode:
            assert head.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, "the dashboard did not answer"
            time.sleep(1)
        yield address
    finally:
        head.send_signal(signal.SIGTERM)  # with --block it ends its own processes, and no others
        head.wait(timeout=60)


def ray_job(arguments: list[str], address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`ray job ...` with its output."""
    command = ["ray", "job", arguments[0], "--address", address, *arguments[1:]]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def submit(name: str, run: Path, data: Path, address: str, environment: dict[str, str]) -> None:
    """Submit the curation of the demo's data into a run directory."""
    values = {
        "run": run,
        "ingest.source": data / "train.json",
        "ingest.images": data,
        "ingest.rows_per_shard": 200,
        "cluster.clusters": 40,
        "export.out": f"{run}.json",
        "test": "null",
        "compare": "null",
    }
    job = ["python", "jobs/curate.py", "--recipe", "jobs/recipes/demo.yaml"]
    for field, value in values.items():
        job += ["--set", f"{field}={value}"]
    done = ray_job(
        ["submit", "--submission-id", name, "--no-wait", "--working-dir", ".", "--", *job], address, environment
    )
    assert done.returncode == 0, done.stderr + done.stdout


def wait_for_end(name: str, address: str, environment: dict[str, str]) -> str:
    """Until the job has ended; how."""
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        told = ray_job(["status", name], address, environment)
        for state in ("succeeded", "failed", "was stopped"):
            if f"Job '{name}' {state}" in told.stdout + told.stderr:
                return state
        time.sleep(2)
    raise AssertionError(f"job {name} did not end in {JOB_SECONDS:.0f} s")


def kill_driver(run: Run) -> int:
    """kill -9 of the driver, whose process the heartbeat names, once features are committed; how many shards are."""
    noun = run.noun("features")
    deadline = time.monotonic() + JOB_SECONDS
    while not (Path(noun.folder) / "records").is_dir() or not noun.records():
        assert time.monotonic() < deadline, "no features were committed"
        time.sleep(0.1)
    beat = noun.read_json("progress.json")
    assert beat is not None
    os.kill(beat["pid"], signal.SIGKILL)
    return len(noun.records())


def main(place: Path) -> None:
    """Submit, kill, submit again, compare."""
    data = place / "data"
    build_demo_dataset(data, scale=scale_for_rows(ROWS))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **token}
    environment.pop("RAY_ADDRESS", None)
    struck, calm = Run(str(place / "struck")), Run(str(place / "calm"))
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="rc") as short, head_node(Path(short), place, environment) as address:
        submit("struck", place / "struck", data, address, environment)
        committed = kill_driver(struck)
        ends = [wait_for_end("struck", address, environment)]
        submit("again", place / "struck", data, address, environment)
        ends.append(wait_for_end("again", address, environment))
        submit("calm", place / "calm", data, address, environment)
        ends.append(wait_for_end("calm", address, environment))
        logs = ray_job(["logs", "again"], address, environment).stdout
        stranger = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN"}
        refused = ray_job(["list"], address, {**stranger, "RAY_AUTH_TOKEN": secrets.token_hex(32)}).returncode != 0
    found = {
        "ends": ends,
        "shards_before_the_kill": committed,
        "same_selection": selection_of(struck) == selection_of(calm),
        "same_file": (place / "struck.json").read_bytes() == (place / "calm.json").read_bytes(),
        "logs": logs,
        "refused_without_token": refused,
    }
    (place / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
