"""A real Slurm on this machine, of two nodes that are daemons of it, for the time of a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
SlurmUser={user}
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n[1-2] NodeHostname={host} Port=[{first}-{last}] CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why Slurm cannot be started here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"{', '.join(missing)} are not installed: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd starts as root only"


@contextmanager
def slurm(cpus: int) -> Iterator[dict[str, str]]:
    """Two idle nodes of so many CPUs; the environment in which `sbatch` finds them."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # munge's socket needs a short path
    folder.chmod(0o755)
    port = _free_port()
    text = CONFIG.format(
        host=socket.gethostname(), folder=folder, user="root", port=port, first=port + 1, last=port + 2, cpus=cpus
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    started = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "n1"],
            ["slurmd", "-D", "-N", "n2"],
        ):
            started.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            time.sleep(1)
        _wait_for_idle_nodes(environment)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_idle_nodes(environment: dict[str, str]) -> None:
    end = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--Node", "--format=%T"]
    while (states := subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()) != [
        "idle",
        "idle",
    ]:
        assert time.monotonic() < end, states
        time.sleep(1)


def _free_port() -> int:
    """The first of three ports; those behind it are most likely free as well."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
