"""A fixed pool of k-means workers: calls to all of them, and a new worker in the place of a dead one.

Workers that join hands (`link`) add up among themselves until the first loss: after it the others are where a new one
cannot follow, so the pool goes on without (`linked` is False).
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import ray

from raycurate.clustering.exchange import PeerLost
from raycurate.errors import UserError
from raycurate.run.progress import Progress
from raycurate.stages.engine.shards import get_result
from raycurate.stages.workers.kmeans import KMeansJob, KMeansWorker

BEAT_SECONDS = 5.0
START_SECONDS = 900.0
GRACE_SECONDS = 60.0
"""How long workers may take to notice that one which they wait for is gone."""
LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
)

log = logging.getLogger("raycurate")


class WorkerLost(Exception):
    """A worker, or something it had made, is gone."""


class KMeansPool:
    """Workers ``0 .. W-1``; worker n owns the feature parts n, n + W, ... Use as a context.

    It starts empty: `fill` it, and again after every ``WorkerLost``.
    """

    def __init__(
        self, job: KMeansJob, num_shards: int, resources: Mapping[str, Any], run_id: str, progress: Progress
    ) -> None:
        self.job, self.resources, self.run_id, self.progress = job, resources, run_id, progress
        count = len(job.ranges)
        self.shards = [tuple(range(number, num_shards, count)) for number in range(count)]
        self.actors: list[Any] = [None] * count
        self.linked = False

    def __enter__(self) -> KMeansPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _kill(self.actors)

    def _new(self, number: int) -> Any:
        name = f"raycurate-{self.run_id}-kmeans-{number}-{uuid.uuid4().hex[:6]}"
        options = {**self.resources, "name": name}
        return ray.remote(KMeansWorker).options(**options).remote(self.job, number, self.shards[number])

    def _await_start(self, actors: Sequence[Any]) -> None:
        """Wait for the processes; a cluster without room for them is an error, not a wait without end."""
        pending = [actor.process_id.remote() for actor in actors]
        deadline = time.monotonic() + START_SECONDS
        while pending:
            ready, pending = ray.wait(pending, num_returns=len(pending), timeout=BEAT_SECONDS)
            self.get(ready)
            self.progress.beat()
            if pending and time.monotonic() > deadline:
                raise UserError(
                    f"cluster: {len(pending)} of {len(actors)} workers, each asking for {dict(self.resources)}, found "
                    f"no place in {START_SECONDS:.0f} s on {ray.available_resources()}. Set cluster.workers or "
                    "cluster.cpus_per_worker lower, or add nodes."
                )

    def fill(self) -> None:
        """Put a new worker in every place that is empty or whose worker is dead. A busy worker answers when it is done.

        ``WorkerLost`` where a new one dies while it starts: Ray gives a lost node work until it has noticed the loss.
        """
        started = []
        for number, actor in enumerate(self.actors):
            if not self._lives(number, actor):
                self.actors[number] = self._new(number)
                started.append(self.actors[number])
        try:
            self._await_start(started)
        except WorkerLost:
            _kill(started)  # else the next call would wait without limit for one of them that finds no place
            raise

    def _lives(self, number: int, actor: Any) -> bool:
        if actor is None:
            return False
        try:
            self.get([actor.process_id.remote()])
        except WorkerLost as lost:
            log.warning("cluster: worker %d was lost (%s); starting another", number, lost)
            return False
        return True

    def link(self) -> None:
        """Let the workers join hands; where they cannot reach one another, go on without."""
        try:
            address, port = self.get([self.actors[0].open_store.remote()])[0]
            self.together("join", address, port)
            self.linked = True
        except WorkerLost as lost:
            log.warning("cluster: the workers add up through the object store, as they cannot join: %s", lost)
            raise

    def together(self, method: str, *arguments: Any) -> list[Any]:
        """As `all`, for a method in which the workers wait for one another.

        Where one fails, the others have `GRACE_SECONDS` to notice; after that they are ended: a collective of a GPU
        does not come back.
        """
        calls = {getattr(actor, method).remote(*arguments): actor for actor in self.actors}
        pending, failed_at = list(calls), math.inf
        while pending:
            ready, pending = ray.wait(pending, num_returns=len(pending), timeout=BEAT_SECONDS, fetch_local=False)
            self.progress.beat()
            if any(_error_of(reference) for reference in ready):
                failed_at = min(failed_at, time.monotonic())
            if time.monotonic() - failed_at > GRACE_SECONDS:
                _kill([calls[reference] for reference in pending])
        errors = [error for error in map(_error_of, calls) if error is not None]
        if errors:
            raise next((error for error in errors if not isinstance(error, WorkerLost)), errors[0])
        return self.get(list(calls))

    def all(self, method: str, *arguments: Any) -> list[Any]:
        """The results of one method of every worker."""
        return self.get([getattr(actor, method).remote(*arguments) for actor in self.actors])

    def scatter(self, method: str, *arguments: Any, returns: int) -> list[list[Any]]:
        """For every worker, references to the ``returns`` objects that its method returns."""
        references = [getattr(a, method).options(num_returns=returns).remote(*arguments) for a in self.actors]
        return [reference if returns > 1 else [reference] for reference in references]

    def wait(self, references: Sequence[Any]) -> None:
        """Until all are there; the progress shows a sign of life meanwhile."""
        pending = list(references)
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=BEAT_SECONDS, fetch_local=False)
            self.progress.beat()

    def first_ready(self, references: Sequence[Any]) -> Any:
        """One reference that is there."""
        while True:
            ready, _ = ray.wait(list(references), num_returns=1, timeout=BEAT_SECONDS, fetch_local=False)
            self.progress.beat()
            if ready:
                return ready[0]

    def get(self, references: Sequence[Any]) -> list[Any]:
        """Their values. ``WorkerLost`` where a worker died; a worker's own error as it was."""
        self.wait(references)
        return [_result_of(reference) for reference in references]


def _result_of(reference: Any) -> Any:
    """Its value; `WorkerLost` where a worker is gone, or another one noticed that."""
    try:
        return get_result(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(error, LOST) or isinstance(cause, (*LOST, PeerLost)):
            raise WorkerLost(str(cause if isinstance(cause, PeerLost) else error).splitlines()[0]) from error
        raise


def _error_of(reference: Any) -> Exception | None:
    try:
        _result_of(reference)
    except Exception as error:
        return error
    return None


def _kill(actors: Sequence[Any]) -> None:
    for actor in actors:
        if actor is not None:
            ray.kill(actor)
