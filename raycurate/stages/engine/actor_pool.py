"""A pool of actors behind loader tasks, and the driver that commits shards as they are complete.

    shard numbers --loader tasks--> batches --actor pool--> lines of counts --driver: merge tasks--> committed shards

A stage gives a loader (shards in, batches out, one Arrow row each with the columns of `PLACE`) and an actor (a batch
in, one row of counts out, its numbers written aside as a fragment). The driver knows from the counts when a shard is
complete and starts the task that merges its fragments; it holds counts only. Every stage is its own Ray Dataset, so
that its pool is given back when it ends. Without a cluster one loader and one actor work in this process
(`pool_here.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeAlias

import ray
import ray.data

from raycurate.config import PoolConfig
from raycurate.errors import UserError
from raycurate.ray_session import cluster_cpus, cluster_gpus, largest_node_memory, this_node
from raycurate.run.manifest import ShardRecord
from raycurate.run.progress import Progress
from raycurate.stages.engine.pool_here import lines_here
from raycurate.stages.engine.shards import count_record, get_result, pending_tasks

BLOCK_BYTES = 8 << 20
CALLS = 2
"""Batches that an actor has in hand: one in its model, one that is unpacked or written (`fragments.ModelThread`)."""
_USER_ERROR = re.compile(r"^raycurate\.errors\.UserError: (.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
Lines: TypeAlias = ray.data.Dataset | Generator[dict[str, Any]]
"""What actors return, one row of counts for each batch."""
PLACE = ("shard", "window", "batch", "batches", "windows")
"""Where a batch belongs: its number and how many there are in its window, its window and how many in its shard."""


def line_of(batch: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """What an actor returns of a batch: its place, its rows, when and on which node they were done."""
    return {**{name: batch[name] for name in PLACE}, "rows": rows, "finished": time.time(), "node": this_node()}


def gpus_of(config: PoolConfig) -> float:
    """GPUs that an actor takes: as set, else 1 where the cluster has GPUs."""
    return config.gpus_per_actor if config.gpus_per_actor is not None else float(cluster_gpus() > 0)


class _Started:
    """An actor whose constructor may refuse: Ray would start it anew for ever, an error of a call ends the stage."""

    def __init__(self, kind: type[Any], settings: Mapping[str, Any]) -> None:
        self.actor: Any = None
        self.refusal: UserError | None = None
        try:
            self.actor = kind(**settings)
        except UserError as error:
            self.refusal = error

    def __call__(self, table: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        return self.actor(table)


def actor_lines(
    shards: list[int],
    load: Callable[..., Any],
    actor: type[Any],
    actor_settings: Mapping[str, Any],
    config: PoolConfig,
    gpus: float,
    memory: int,
) -> Lines:
    """The streaming pipeline from shard numbers to what the actors return; a loader takes `memory` bytes."""
    if not ray.is_initialized():
        return lines_here(shards, load, actor, actor_settings)
    if not os.environ.get("RAYCURATE_RAY_LOGS"):
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # here, as importing `ray.data` sets its own level
    slots = max(1, int(cluster_gpus() / gpus if gpus else 0.8 * cluster_cpus() / config.cpus_per_actor))
    most = max(1, min(config.max_actors, 2 * len(shards)))
    least = min(config.min_actors, most)
    pool = ray.data.ActorPoolStrategy(
        min_size=least,
        max_size=most,
        initial_size=max(least, min(most, slots)),
        max_tasks_in_flight_per_actor=4,
        max_concurrent_calls_per_actor=CALLS,
    )
    dataset = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    context = dataset.context
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = int(config.stall_seconds)
    dataset = dataset.map_batches(
        load,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_loader,
        memory=min(memory, largest_node_memory() // 2),
    )
    return dataset.map_batches(
        type(actor.__name__, (_Started,), {}),  # the name that Ray shows
        fn_constructor_kwargs={"kind": actor, "settings": dict(actor_settings)},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_actor,
        num_gpus=gpus or None,
        label_selector=config.nodes or None,
        compute=pool,
    )


class _Ledger:
    """Which batches of which shard are done; says when a shard is complete, how fast rows came, and from where."""

    def __init__(self) -> None:
        self.batches: dict[int, dict[int, int]] = {}
        self.seen: dict[int, set[tuple[int, int]]] = {}
        self.first = self.last = 0.0
        self.rows_after_first = 0
        self.rows_by_node: Counter[str] = Counter()

    @property
    def metrics(self) -> dict[str, Any]:
        """For the manifest. The rate is from the first finished batch to the last: starting up is left out."""
        took = self.last - self.first
        rate = self.rows_after_first / took if took > 0 else None
        return {"rows_per_second": rate, "rows_by_node": dict(self.rows_by_node)}

    def add(self, line: dict[str, Any]) -> dict[int, int] | None:
        """Note one batch; the batches per window once the shard is complete. A batch that came twice counts once."""
        self.rows_after_first += line["rows"] if self.first else 0
        self.first = self.first or line["finished"]
        self.last = max(self.last, line["finished"])
        shard = line["shard"]
        expected = self.batches.setdefault(shard, {})
        expected[line["window"]] = line["batches"]
        seen = self.seen.setdefault(shard, set())
        if (line["window"], line["batch"]) not in seen:
            self.rows_by_node[line["node"]] += line["rows"]
        seen.add((line["window"], line["batch"]))
        if len(expected) < line["windows"] or len(seen) < sum(expected.values()):
            return None
        del self.batches[shard], self.seen[shard]
        return expected


def commit_shards(
    lines: Lines,
    merge: Callable[[int, dict[int, int]], ShardRecord],
    progress: Progress,
    *,
    strict: bool,
) -> dict[str, Any]:
    """Drive the pipeline; start a merge task for each complete shard; count. Returns rates, for the manifest.

    `merge(shard, {window: batches})` runs as a task and returns the record of what it committed.
    """
    ledger = _Ledger()
    rejected = 0

    def complete(line: dict[str, Any]) -> tuple[int, dict[int, int]] | None:
        batches = ledger.add(line)
        return None if batches is None else (line["shard"], batches)

    def note(record: ShardRecord) -> None:
        nonlocal rejected
        rejected = count_record(progress, record, strict=strict, quarantined=rejected)

    drive_pipeline(lines, complete, merge, note)
    assert not ledger.batches, f"shards left incomplete: {sorted(ledger.batches)}"
    return ledger.metrics


def drive_pipeline(
    lines: Lines,
    complete: Callable[[dict[str, Any]], tuple[Any, ...] | None],
    commit: Callable[..., ShardRecord],
    note: Callable[[ShardRecord], None],
) -> None:
    """Pull the actors' lines; run ``commit`` as a task for each line that completes a shard; note its record.

    ``complete(line)`` gives the arguments of ``commit``, or None as long as batches of that shard are missing. An
    error of a commit or of the pipeline ends the other commits and the pool. Lines of this process are committed in it.
    """
    if not isinstance(lines, ray.data.Dataset):
        with contextlib.closing(lines):
            for line in lines:
                if (arguments := complete(line)) is not None:
                    note(commit(*arguments))
        return

    def call(*values: Any) -> ShardRecord:  # ray.remote takes plain functions only
        return commit(*values)

    remote = ray.remote(call).options(num_cpus=0.1)

    def collect(pending: list[ray.ObjectRef], block: bool) -> None:
        while pending:
            ready, _ = ray.wait(pending, num_returns=1, timeout=None if block else 0)
            if not ready:
                return
            pending.remove(ready[0])
            note(get_result(ready[0]))

    with pending_tasks() as pending:
        try:
            with contextlib.closing(iter(lines.iter_rows())) as rows:  # ends the pool after an error, too
                for line in rows:
                    arguments = complete(line)
                    if arguments is not None:
                        pending.append(remote.remote(*arguments))
                    collect(pending, block=False)
        except ray.exceptions.RayError as error:
            raise readable_error(error) from error
        collect(pending, block=True)


def readable_error(error: ray.exceptions.RayError) -> Exception:
    """The task's own exception where Ray carries one."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        if isinstance(inner, UserError):
            return UserError(str(inner))
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    told = _USER_ERROR.findall(str(error))  # Ray Data keeps no cause of an error in an actor, only its traceback
    return UserError(told[-1]) if told else error
