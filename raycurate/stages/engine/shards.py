"""Row-wise work by shard: run what is missing, bounded, and count what was done.

A stage hands over one function of a shard number that makes and commits that shard and returns its record. Finished
shards are never handed out again, so a rerun after any crash does only what is left. Ray retries a task whose worker
process or node died; commits are idempotent (a shard's content depends on its number only).
"""

from __future__ import annotations

import contextlib
import functools
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray

from raycurate.errors import UserError
from raycurate.run.ahead import map_ahead
from raycurate.run.filesystem import json_text, list_files, read_bytes
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.progress import Progress
from raycurate.run.store import Noun
from raycurate.settings import StageConfig
from raycurate.stages.engine.rejects import told_reasons
from raycurate.stages.table import version_of

CANCEL_SECONDS = 30.0
Result = TypeVar("Result")
MapShards = Callable[..., Iterator[Any]]


def describe(
    stage: str, config: StageConfig, inputs: Mapping[str, Any], read: Iterable[Manifest] = ()
) -> dict[str, Any]:
    """What determines a stage's result: its code's version, its config, its inputs, and the nouns that it reads."""
    return {
        "stage": stage,
        "stage_version": version_of(stage),
        "config": config.determining(),
        "inputs": dict(inputs),
        "made_from": names_of(read),
    }


def names_of(read: Iterable[Manifest]) -> dict[str, str]:
    """Fingerprint of each noun by ``noun/label``, as descriptions have it; `lineage` compares them later."""
    return {f"{manifest.noun}/{manifest.label}": manifest.fingerprint for manifest in read}


def map_tasks(
    function: Callable[..., Result],
    arguments: Iterable[tuple[Any, ...]],
    *,
    num_cpus: float = 1.0,
    memory: int | None = None,
    max_tasks: int = 64,
) -> Iterator[Result]:
    """Results of ``function(*arguments)`` as Ray tasks, in the order they finish, at most ``max_tasks`` in flight.

    An error of a task is raised here as the error it was, the others are killed. Without a cluster the calls are made
    in this process, one after the other: small work of a stage that has none (`in_session_unless`).
    """
    if not ray.is_initialized():
        yield from map_here(function, arguments)
        return

    remote = ray.remote(_call).options(num_cpus=num_cpus, max_retries=3, memory=memory)
    shared = ray.put(function)  # an object: what it holds is mapped by workers, and not bounded to 95 MiB as code is
    with pending_tasks() as pending:
        for values in arguments:
            if len(pending) >= max_tasks:
                yield _next_result(pending)
            pending.append(remote.remote(shared, *values))
        while pending:
            yield _next_result(pending)


def _call(function: Callable[..., Result], *values: Any) -> Result:
    return function(*values)


@contextlib.contextmanager
def pending_tasks() -> Iterator[list[ray.ObjectRef]]:
    """A list for tasks under way. Those still in it at the end, after an error, are killed and waited for.

    A stage that failed thus writes nothing more once it has given its lock back: a late commit would be taken for a
    part of what the next job writes there. Commits are safe to kill.
    """
    pending: list[ray.ObjectRef] = []
    try:
        yield pending
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=CANCEL_SECONDS, fetch_local=False)


def map_here(function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], **_: Any) -> Iterator[Result]:
    """As `map_tasks`, one call after the other in this process: for a task that must not wait for tasks of its own."""
    return (function(*values) for values in arguments)


def _next_result(pending: list[ray.ObjectRef]) -> Any:
    ready, _ = ray.wait(pending, num_returns=1)
    pending.remove(ready[0])
    return get_result(ready[0])


def get_result(reference: ray.ObjectRef) -> Any:
    """The value of a reference; a task's own exception instead of Ray's wrapper around it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else None
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        raise


def count_record(progress: Progress, record: ShardRecord, *, strict: bool, quarantined: int = 0) -> int:
    """Advance the progress by one committed shard; with ``strict`` the first rejected row is an error."""
    rejected = sum(record.quarantined.values())
    progress.quarantined(record.quarantined)
    if strict and rejected:
        raise UserError(
            f"--strict: {rejected} rows of shard {record.shard} were rejected: {told_reasons(record.quarantined)}. "
            "See the quarantine folder of the run, or run without --strict to keep the good rows."
        )
    total = quarantined + rejected
    progress.advance(record.rows_in, f"({total} quarantined)" if total else "")
    return total


@contextlib.contextmanager
def stage_progress(stage: str, noun: Noun, total: int, unit: str = "rows") -> Iterator[Progress]:
    """The progress of a row-wise stage, starting at what earlier attempts committed."""
    done = sum(record.rows_in for record in noun.records().values())
    with Progress(stage, total, unit, noun=noun, done=done) as progress:
        yield progress


def run_missing_shards(
    stage: str,
    noun: Noun,
    make_shard: Callable[[int], ShardRecord],
    *,
    num_shards: int,
    total_rows: int,
    strict: bool = False,
    num_cpus: float = 1.0,
    max_tasks: int = 64,
    map_shards: MapShards = map_tasks,
) -> None:
    """Make every shard of ``noun`` that has no record yet."""
    missing = ((shard,) for shard in noun.missing(num_shards))
    with stage_progress(stage, noun, total_rows) as progress:
        rejected = 0
        # No name for the tasks: an error of this loop must end them, not wait for whoever looks at its traceback.
        for record in map_shards(make_shard, missing, num_cpus=num_cpus, max_tasks=max_tasks):
            rejected = count_record(progress, record, strict=strict, quarantined=rejected)


def resumable_steps(
    noun: Noun,
    step: str,
    make: Callable[..., dict[str, Any]],
    arguments: Sequence[tuple[Any, ...]],
    *,
    num_cpus: float = 1.0,
    memory: int | None = None,
    max_tasks: int = 64,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Results of an inner step of a stage, one small JSON each, kept beside the noun so that a rerun finds them.

    ``make(number, *arguments[number])`` runs as a Ray task and returns the JSON. Yields (number, result): the kept
    ones first, then the others as they finish.
    """

    def run(number: int, *values: Any) -> tuple[int, str]:
        name = step_name(step, number, "json")
        text = json_text(make(number, *values), name)
        noun.write_bytes(name, text.encode())
        return number, text

    kept = {info.base_name: info.path for info in list_files(noun.filesystem, f"{noun.folder}/work/{step}", ".json")}
    names = [posixpath.basename(step_name(step, number, "json")) for number in range(len(arguments))]
    done = [number for number, name in enumerate(names) if name in kept]
    read = functools.partial(read_bytes, noun.filesystem)
    for number, found in zip(done, map_ahead(read, [kept[names[number]] for number in done]), strict=True):
        yield number, json.loads(found)
    calls = ((number, *arguments[number]) for number in sorted({*range(len(arguments))} - {*done}))
    for number, text in map_tasks(run, calls, num_cpus=num_cpus, memory=memory, max_tasks=max_tasks):
        yield number, json.loads(text)


def step_name(step: str, number: int, suffix: str) -> str:
    """The name, inside a noun's folder, of one file of an inner step."""
    return f"work/{step}/{number:05d}.{suffix}"


def skip_if_done(noun: Noun, description: Mapping[str, Any]) -> Manifest | None:
    """The manifest of a noun that is already what ``description`` asks for."""
    return noun.manifest() if noun.is_done(description) else None
