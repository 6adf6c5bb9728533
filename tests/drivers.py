"""Commands in processes of their own, which join the cluster of the test run, and their end by kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ray

DEADLINE = 600.0


def start(*arguments: str) -> subprocess.Popen[str]:
    """`raycurate ARGUMENTS` on the cluster that this process is connected to, if it is."""
    environment = dict(os.environ)
    if ray.is_initialized():
        environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "raycurate.cli", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def output_of(*arguments: str) -> str:
    """What a command that succeeds prints."""
    process = start(*arguments)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    return output


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """kill -9 the driver as soon as ``ready`` says so."""
    deadline = time.monotonic() + DEADLINE
    try:
        while not ready():
            assert process.poll() is None, f"ended before it could be killed: {process.communicate()[0]}"
            assert time.monotonic() < deadline, "never got there"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def kill_at_commit(pattern: str, count: int, *arguments: str) -> None:
    """A command that stays in its process, without a cluster; kill -9 once ``count`` files like ``pattern`` are there.

    A command on the cluster costs five times as much: its workers are new processes.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.killed", pattern, str(count), *arguments]
    process = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE
    )
    assert process.returncode == -signal.SIGKILL, f"ended before it could be killed: {process.stdout}"


def kill_after(files: int, folder: Path, *arguments: str) -> dict[str, int]:
    """kill -9 a command once ``folder`` has so many JSON files; those that it left, and when they were written."""
    kill_when(start(*arguments), lambda: len(list(folder.glob("*.json"))) >= files)
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
