"""Start or join a Ray cluster, quietly, and leave it as it was found.

A local cluster is started with ``address="local"`` so that a stale cluster of somebody else on the machine is never
joined. Its sockets lie in a short folder whatever `TMPDIR` says, as Linux allows 107 bytes for their paths, and it
works without a home directory that can be written. Ray's banners and per-task log lines stay out of the user's
terminal; errors of tasks and actors still reach the driver as exceptions, and what Ray printed while it started is
shown if the start fails.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import psutil
import ray

from raycurate.config import SessionConfig
from raycurate.errors import UserError
from raycurate.node_paths import check_nodes_see
from raycurate.run.lock import run_lock
from raycurate.run.store import Run
from raycurate.settings import StageConfig

MIN_OBJECT_STORE, MAX_OBJECT_STORE = 128 << 20, 2 << 30
GPU_DEVICES, SHARED_MEMORY = "/dev/nvidia[0-9]*", "/dev/shm"
GPU_STORE_SHARE, SHARED_MEMORY_SHARE = 0.3, 0.9
"""The object store of a machine with GPUs, whose workers exchange gigabytes, takes so much of its memory, and at most
so much of what is free where the store lies: without that room Ray goes to the disk."""
START_ATTEMPTS = 3
CONNECT_SECONDS = 5.0
LONGEST_FOLDER = 40
"""Bytes of the folder that Ray puts its session into: 64 more lead to its sockets, which may have 107."""
LONGEST_TMPDIR = 70
"""Bytes of `TMPDIR`: Python's and the dashboard's processes have sockets in a folder of theirs inside it."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

P = ParamSpec("P")
R = TypeVar("R")
Stage = Callable[Concatenate[Run, P], R]


@contextlib.contextmanager
def ray_session(config: SessionConfig | None = None) -> Iterator[None]:
    """A Ray cluster for the body. One that was there already is used and left running."""
    if ray.is_initialized():
        yield
        return
    config = config or SessionConfig()  # type: ignore[call-arg]
    # Set before init: worker processes inherit them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # A worker takes seconds of CPU to start; Ray's default ends an idle one after a second, to start it anew for the
    # next small task. On two cores that cost an extraction a sixth of its speed.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    address = config.address or os.environ.get("RAY_ADDRESS")
    with contextlib.nullcontext() if address else _short_tmpdir():
        with _held_stderr():
            if address:
                _connect(address, "the setting ray.address" if config.address else "RAY_ADDRESS")
            else:
                _start_local(config)
        try:
            yield
        finally:
            ray.shutdown()


def in_session(stage: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """A stage that may be called without a cluster: it then starts a local one for itself. It locks its run.

    Ray Train and Tune ask the State API, which the dashboard serves: the config says whether it takes part.
    """
    locked = _one_writer(stage)

    @functools.wraps(stage)
    def call(run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
        dashboard = any(getattr(value, "needs_dashboard", False) for value in (*args, *kwargs.values()))
        with ray_session(SessionConfig(dashboard=dashboard)):  # type: ignore[call-arg]
            if not in_worker():
                for value in (*args, *kwargs.values()):
                    if isinstance(value, StageConfig):
                        check_nodes_see(run, value)
            return locked(run, *args, **kwargs)

    return call


def in_session_unless(small: Callable[[Run, Any], bool]) -> Callable[[Stage[P, R]], Stage[P, R]]:
    """As `in_session`, but work that is `small(run, config)` stays in this process where no cluster is there or named.

    Starting a cluster takes seconds; the tasks then run here, one after the other (`map_tasks`), with the same result.
    """

    def decorate(stage: Stage[P, R]) -> Stage[P, R]:
        on_cluster, here = in_session(stage), _one_writer(stage)

        @functools.wraps(stage)
        def call(run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
            config = args[0] if args else kwargs["config"]
            if ray.is_initialized() or os.environ.get("RAY_ADDRESS") or not small(run, config):
                return on_cluster(run, *args, **kwargs)
            return here(run, *args, **kwargs)

        return call

    return decorate


def _one_writer(stage: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """A stage that holds the lock of its run directory while it works.

    The lock is the driver's: a stage that runs in a worker process, as in the trials of a sweep, works under it.
    """

    @functools.wraps(stage)
    def call(run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
        with contextlib.nullcontext() if in_worker() else run_lock(run.uri):
            return stage(run, *args, **kwargs)

    return call


def in_worker() -> bool:
    """Whether this is a process that Ray started for tasks or actors, not a driver."""
    return ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def _connect(address: str, given_by: str) -> None:
    """Join a cluster; one that is not there is told in seconds, not after Ray's minutes of trying."""
    fix = f"Start that cluster (`ray start --head`), or correct {given_by}; without it a local cluster is started"
    host, colon, port = address.rsplit("/", 1)[-1].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise UserError(f"no Ray cluster answers at '{address}' of {given_by}: {error}. {fix}") from None
    try:
        ray.init(address=address, **_quiet())
    except (ConnectionError, ValueError, RuntimeError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot join the Ray cluster '{address}' of {given_by}: {told}. {fix}; one that asks for a token needs "
            "RAY_AUTH_MODE=token and its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error


def session_folder() -> str | None:
    """Where a local cluster puts its files, None for Ray's own choice: a short folder where that one is too long.

    Raises:
        UserError: no short folder can be written.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(os.path.join(chosen, "ray"))) <= LONGEST_FOLDER and os.access(chosen, os.W_OK):
        return None
    for folder in SHORT_FOLDERS:
        if os.access(folder, os.W_OK):
            return f"{folder}/ray"
    raise UserError(
        f"Ray needs a folder for its sockets whose path has at most {LONGEST_FOLDER} bytes; '{chosen}' is longer or "
        f"cannot be written, nor can {', '.join(SHORT_FOLDERS)}. Name one: RAY_TMPDIR=/short/folder"
    )


@contextlib.contextmanager
def _short_tmpdir() -> Iterator[None]:
    """Let the processes of a local cluster reach a `TMPDIR` with a long path by a short link; the files stay there."""
    long = os.environ.get("TMPDIR", "")
    folder = next((each for each in SHORT_FOLDERS if os.access(each, os.W_OK)), None)
    if len(os.fsencode(long)) <= LONGEST_TMPDIR or folder is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="raycurate-", dir=folder) as own:
        link = f"{own}/tmp"
        os.symlink(os.path.abspath(long), link)
        os.environ["TMPDIR"] = link
        try:
            yield
        finally:
            os.environ["TMPDIR"] = long


def _keep_token() -> None:
    """Give a local cluster its token by the environment where it cannot be kept in the home directory."""
    home = os.path.expanduser("~")
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(name in os.environ for name in names) or os.path.exists(f"{home}/.ray/auth_token"):
        return
    folder = f"{home}/.ray" if os.path.isdir(f"{home}/.ray") else home
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def object_store_bytes(gpus: int) -> int:
    """How large the object store of a cluster on this machine is made."""
    memory = psutil.virtual_memory()
    if not gpus:
        return max(MIN_OBJECT_STORE, min(MAX_OBJECT_STORE, memory.available // 10))
    room = psutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else MAX_OBJECT_STORE
    wanted = min(GPU_STORE_SHARE * memory.total, SHARED_MEMORY_SHARE * room, memory.available / 2)
    return max(MIN_OBJECT_STORE, int(wanted))


def _start_local(config: SessionConfig) -> None:
    """Start Ray on this machine; a start that was too slow for Ray's own deadline is tried again."""
    folder = session_folder()
    _keep_token()
    memory = (config.object_store_mb or 0) << 20 or object_store_bytes(len(glob.glob(GPU_DEVICES)))
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                object_store_memory=memory,
                include_dashboard=config.dashboard,
                _temp_dir=folder,
                **_quiet(),
            )
            return
        except Exception as error:
            ray.shutdown()
            if "timed out" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise


def _quiet() -> dict[str, object]:
    return {"logging_level": logging.ERROR, "log_to_driver": bool(os.environ.get("RAYCURATE_RAY_LOGS"))}


@contextlib.contextmanager
def _held_stderr() -> Iterator[None]:
    """Hold what is written to stderr, by C++ too, and show it only if the body fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, UserError):  # which says it all
                held.seek(0)
                os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def quiet_library(name: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables and keep a logger's lines below errors from the terminal, for the body only.

    Train and Tune put Ctrl-C handlers of their own in place and leave them there: what was before comes back.
    """
    handler = signal.getsignal(signal.SIGINT)
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    logger = logging.getLogger(name)
    level = logger.level
    if not os.environ.get("RAYCURATE_RAY_LOGS"):
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def this_node() -> str:
    """The id of the node that this process is on, '' without a cluster."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def cluster_cpus() -> float:
    """CPUs of the cluster as it stands, or of this machine without one."""
    return float(os.cpu_count() or 1) if not ray.is_initialized() else float(ray.cluster_resources().get("CPU", 1.0))


def cluster_gpus() -> float:
    """GPUs of the cluster as it stands, none without one."""
    return 0.0 if not ray.is_initialized() else float(ray.cluster_resources().get("GPU", 0.0))


def node_cpus() -> list[float]:
    """CPUs of each node that has some, or of this machine without a cluster."""
    return [cpus for cpus in _of_nodes("CPU") if cpus > 0] if ray.is_initialized() else [cluster_cpus()]


def largest_node_cpus() -> float:
    """CPUs of the node that has the most: no task can ask for more."""
    return cluster_cpus() if not ray.is_initialized() else max(_of_nodes("CPU"), default=1.0)


def largest_node_memory() -> int:
    """Bytes that Ray lends on the node that has the most: no task can ask for more."""
    if not ray.is_initialized():
        return int(psutil.virtual_memory().total)
    return int(max(_of_nodes("memory"), default=0.0))


def _of_nodes(resource: str) -> Iterator[float]:
    return (float(node["Resources"].get(resource, 0.0)) for node in ray.nodes() if node["Alive"])
