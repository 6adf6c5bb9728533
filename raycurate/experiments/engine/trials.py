"""Trials on Ray Tune, with a results table that survives anything.

    results table: <noun>/<phase>/<key>.json, one small file per finished trial, written atomically by the trial
    Tune: the trials that are not in the table, as many at once as the cluster carries

The table is the truth. Tune's own state lies in <noun>/tune while a phase runs: after a crash of the driver the same
call goes on from it (`Tuner.restore`), and it is removed at the end. Where it cannot be restored, what is missing in
the table is started anew, and nothing is lost, as a trial either is in the table or has not counted.

Tune's state is pickled, and reading it runs what it says. It is therefore restored only from a local folder that
belongs to this user and that nobody else can write to.

A trial must not wait for tasks that need the CPUs that other trials hold. A selecting trial does its work in its own
process. A training trial holds next to nothing, and the stages that it calls ask for their own CPUs and GPUs; the
number of such trials at once is limited so that each finds them (`training_slots`).

Tune runs every trial of a process in a new thread, and glibc keeps what threads freed in heaps of their own: fourteen
trainings of a model of 20 MB came to 3.3 GB. A trial gives its freed pages back when it ends.
"""

from __future__ import annotations

import ctypes
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow.fs as pafs
import ray
from ray import tune

from raycurate.errors import UserError
from raycurate.ray_session import cluster_cpus, cluster_gpus, quiet_library
from raycurate.run.filesystem import delete_folder, list_files
from raycurate.run.manifest import fingerprint_of
from raycurate.run.progress import Progress
from raycurate.run.store import Noun
from raycurate.stages.engine.shards import get_result

POLL_SECONDS = 0.5
MAX_FAILURES = 2
# No tables of its own on the terminal, and no result files, which nobody reads.
QUIET_TUNE = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
# What a trial that only waits for its stages holds; Tune wants to place every trial.
WAITING_CPUS = 0.001
Work = Callable[[str], Mapping[str, Any]]
log = logging.getLogger("raycurate")


def result_of(noun: Noun, phase: str, key: str) -> dict[str, Any] | None:
    """A finished trial's result, None while there is none."""
    value = noun.read_json(f"{phase}/{key}.json")
    return None if value is None else dict(value)


def trials_name(phase: str, keys: Sequence[str]) -> str:
    """A name of just these trials, in whatever order they begin."""
    return f"{phase}-{fingerprint_of({'keys': sorted(keys)})[:8]}"


def run_trials(
    noun: Noun,
    phase: str,
    keys: Sequence[str],
    work: Work,
    *,
    cpus: float,
    gpus: float = 0.0,
    max_concurrent: int | None = None,
    done: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """The results of all trials, in the order of their keys; those that are in the table are not run.

    Args:
        keys: names of the trials, hashes of all that determines their results; they begin in this order.
        work: makes one trial's result, plain values that JSON can hold; runs in a process of the cluster.
        cpus: what one trial holds while it runs.
        gpus: likewise.
        max_concurrent: trials at once, where the CPUs alone would allow more.
        done: told the key and the result of each trial that is run here, when it is there.

    Raises:
        UserError: trials that failed, with the reason of the first; the others are in the table.
    """

    def trainable(config: dict[str, Any]) -> None:
        key = config["trial"]
        try:
            if result_of(noun, phase, key) is None:
                noun.write_json(f"{phase}/{key}.json", dict(work(key)))
        except UserError as error:  # a wrong setting stays wrong: no second try
            tune.report({"fault": str(error)})
            return
        finally:
            _release_memory()
        tune.report({"fault": ""})

    def missing() -> list[str]:
        found = {info.base_name for info in list_files(noun.filesystem, f"{noun.folder}/{phase}", ".json")}
        return [key for key in keys if f"{key}.json" not in found]

    placed = tune.with_resources(trainable, {"cpu": cpus, **({"gpu": gpus} if gpus else {})})
    folder, name = f"{noun.folder}/tune", trials_name(phase, keys)
    faults: list[str] = []
    left, told = missing(), set[str]()

    def count() -> int:
        there = missing()
        for key in left:
            if done is not None and key not in there and key not in told:
                told.add(key)
                done(key, result_of(noun, phase, key) or {})
        return len(keys) - len(there)

    with _progress(noun, phase, len(keys), count), quiet_library("ray.tune", QUIET_TUNE):
        restored = _restore(noun, f"{folder}/{name}", placed)
        if missing() and restored is not None:
            faults = _fit(restored)
        if missing() and not faults:
            delete_folder(noun.filesystem, folder)
            faults = _fit(_fresh(noun, folder, name, placed, missing(), max_concurrent))
    delete_folder(noun.filesystem, folder)
    if left := missing():
        reason = faults[0] if faults else "its process died"
        raise UserError(f"{len(left)} of {len(keys)} trials failed ({phase}). The first: {reason}")
    return [value for key in keys if (value := result_of(noun, phase, key)) is not None]


def training_slots(workers: int, cpus_per_worker: float, gpus_per_worker: float | None) -> int:
    """How many trials that each train on `workers` processes the cluster carries at once, at least one."""
    cpus, gpus = cluster_cpus(), cluster_gpus()
    each = gpus_per_worker if gpus_per_worker is not None else float(gpus > 0)
    # One CPU beside the workers: for the tasks before and after the training.
    slots = cpus / (1.0 + workers * cpus_per_worker)
    if each > 0:
        slots = min(slots, gpus / (workers * each))
    return max(1, int(slots))


def outside_of_trial(function: Callable[..., Any], *values: Any) -> Any:
    """The value of ``function(*values)``, run in a process of its own that belongs to no trial.

    All tasks that a Tune trial starts are squeezed into what the trial itself holds; those of this process are not.
    """

    def call(*given: Any) -> Any:
        return function(*given)

    remote = ray.remote(call).options(num_cpus=0, scheduling_strategy="DEFAULT", max_retries=0)
    return get_result(remote.remote(*values))


def _release_memory() -> None:
    """Give the system the pages that this process has freed, where its C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _fresh(
    noun: Noun,
    folder: str,
    name: str,
    trainable: Any,
    keys: list[str],
    max_concurrent: int | None,
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(keys)},
        tune_config=tune.TuneConfig(max_concurrent_trials=max_concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=noun.filesystem,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            verbose=0,
        ),
    )


def _restore(noun: Noun, path: str, trainable: Any) -> tune.Tuner | None:
    """The experiment that an earlier call left unfinished, None where there is none that can be trusted and read."""
    if not _is_private(noun.filesystem, path) or not tune.Tuner.can_restore(path, noun.filesystem):
        return None
    try:
        return tune.Tuner.restore(
            path,
            trainable,
            restart_errored=True,
            storage_filesystem=noun.filesystem,
        )
    except Exception as error:  # whatever a half-written pickle raises
        log.warning("sweep: Tune's state cannot be read (%s); going on from the results table", type(error).__name__)
        return None


def _is_private(filesystem: pafs.FileSystem, path: str) -> bool:
    """Whether a folder is local, belongs to this user and can be written by nobody else."""
    if not isinstance(filesystem, pafs.LocalFileSystem) or not os.path.isdir(path):
        return False
    for folder, _, files in os.walk(path):
        for entry in (folder, *(f"{folder}/{name}" for name in files)):
            status = os.lstat(entry)
            if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                log.warning("sweep: others can write to %s; going on from the results table", entry)
                return False
    return True


def _fit(tuner: tune.Tuner) -> list[str]:
    """Run to the end; why trials failed, the users' mistakes first."""
    results = tuner.fit()
    faults = [fault for result in results if (fault := (result.metrics or {}).get("fault"))]
    return [*faults, *(str(error).strip().splitlines()[-1] for error in results.errors)]


@contextmanager
def _progress(noun: Noun, phase: str, total: int, count: Callable[[], int]) -> Iterator[None]:
    """A line that follows the results table."""
    stop = threading.Event()
    with Progress(phase, total, "trials", noun=noun, done=count()) as progress:

        def poll() -> None:
            while not stop.wait(POLL_SECONDS):
                progress.set(count())

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress.set(count())
