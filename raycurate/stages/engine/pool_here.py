"""A small forward pass in this process, in less time than a cluster and its workers take to start.

    shard numbers --loader, a thread--> batches --actor--> lines of counts

The loader and the actor are those that a cluster runs, so the rows and their bits are the same. The loader's thread
makes the next batch while the model works on one. A machine with a GPU is left to a session.
Cost: two cores. Memory: one window, two batches, the model.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray

from raycurate.config import PoolConfig, SessionConfig
from raycurate.estimate.work import Work
from raycurate.ray_session import GPU_DEVICES, ray_session
from raycurate.run.store import Noun
from raycurate.stages.engine.foreseen import seconds_here

ROWS_HERE = 8_192
"""Rows of the embedded model that one process takes less time for than a cluster takes to start its workers."""
SECONDS_HERE = 30.0
"""Work foreseen for one core that is done here: of a larger model few rows are much work."""
ROWS_LOOKED_AT = 200_000
"""Samples whose images one process looks at in a second or two: all are looked at before the first is read."""


def is_small(samples: Noun, made: Sequence[Noun], config: PoolConfig) -> bool:
    """Whether so few rows are left to be made that a cluster would not pay: a look at counts only.

    Args:
        samples: that are read. Where there are none, that is told at once.
        made: what is made of them. Its rows count whatever they were made from: `session_unless_small` asks once more.
        config: of the stage.
    """
    manifest = samples.manifest()
    if manifest is None:
        return True
    left = max(rows_left(samples, noun) for noun in made)
    fits = left <= ROWS_HERE and manifest.rows_out <= ROWS_LOOKED_AT
    return fits and not config.gpus_per_actor and not config.nodes and not glob.glob(GPU_DEVICES)


def rows_left(samples: Noun, made: Noun) -> int:
    """Rows of finished samples that a noun has no record of."""
    return samples.require("ingest").rows_out - sum(record.rows_in for record in made.records().values())


@contextlib.contextmanager
def session_unless_small(left: Callable[[], Work | None]) -> Iterator[None]:
    """A cluster for the body where there is none and work that was thought to be small is not, or is not known.

    Args:
        left: the work of the body; not asked where a cluster is there.
    """
    if ray.is_initialized():
        yield
        return
    work = left()
    seconds = None if work is None else seconds_here(work.in_one_process, cpus=1.0)
    small = seconds is not None and seconds <= SECONDS_HERE
    with contextlib.nullcontext() if small else ray_session(SessionConfig(dashboard=False)):  # type: ignore[call-arg]
        yield


def lines_here(
    shards: Sequence[int],
    load: Callable[[pa.Table], Iterator[pa.Table]],
    actor: Callable[..., Callable[[pa.Table], pa.Table]],
    actor_settings: Mapping[str, Any],
) -> Generator[dict[str, Any]]:
    """What one actor returns, line by line, in this process."""
    import torch

    threads = torch.get_num_threads()
    try:
        with _without_bars():
            model = actor(**actor_settings)
        tables = (pa.table({"shard": [shard]}) for shard in shards)
        for batch in _loaded_ahead(batch for table in tables for batch in load(table)):
            yield from model(batch).to_pylist()
    finally:
        torch.set_num_threads(threads)  # an actor sets them, for a process of its own


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """The terminal has the stage's progress; in a worker that of a library that loads a model is not seen either."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loaded_ahead(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same batches; a thread makes the next one while the caller works."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as thread:
        due = thread.submit(next, batches, None)
        while (batch := due.result()) is not None:
            due = thread.submit(next, batches, None)
            yield batch
