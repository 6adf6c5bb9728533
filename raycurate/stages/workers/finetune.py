"""One process of a finetune, on a worker of Ray Train or where it is asked for: its folders, notes, checkpoints."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycurate.errors import UserError
from raycurate.run.store import Noun
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenSource
from raycurate.training.faults import comes_again, explain
from raycurate.training.order import OrderSource

POLL_SECONDS = 1.0
REMOVE_SECONDS = 60.0
STEP_FILE = "step.json"
FAULT_FILE = "fault.json"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the processes of a finetune are told; small and picklable.

    Attributes:
        noun: `models`, where the result goes.
        score_features: what a score-net that is trained as well reads.
        run_id: of the run: it names the local folders of what lies on an object store.
        row_order: what the order of the rows is made from.
    """

    config: FinetuneConfig
    noun: Noun
    sources: tuple[TokenSource, ...]
    held_out: tuple[TokenSource, ...]
    score_features: Noun | None
    tasks: tuple[str, ...]
    weights: tuple[float, ...]
    on_gpu: bool
    run_id: str
    row_order: OrderSource | None = None


def train_here(order: Order) -> dict[str, Any]:
    """Train in this process alone; the outcome. An error that comes again is a `UserError` that tells what to do."""
    _keep_to_device(order)
    _set_libraries_aside()
    try:
        with _told(order, rank=0):
            return asdict(_Worker(order, rank=0, local_rank=0, on_train=False).run())
    finally:
        shutil.rmtree(local_rows(order), ignore_errors=True)


def train_on_worker(order: Order) -> dict[str, Any] | None:
    """One worker's training; rank 0's return value is the outcome. An error that comes again is left for the driver."""
    _keep_to_device(order)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    try:
        with _told(order, rank=rank):
            outcome = _Worker(order, rank=rank, local_rank=context.get_local_rank(), on_train=True).run()
    except UserError as error:
        order.noun.write_json(FAULT_FILE, str(error))
        raise
    return asdict(outcome) if rank == 0 else None


@contextlib.contextmanager
def _told(order: Order, *, rank: int) -> Iterator[None]:
    """Turn an error that would come again into a `UserError` with what to do; its traceback stays in the noun."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, ray.exceptions.RayError) or not comes_again(error):
            raise
        name = f"logs/failed-worker-{rank}.txt"
        order.noun.write_bytes(name, traceback.format_exc().encode())
        raise UserError(explain(error, order.config, order.noun.uri_of(name))) from error


def _scratch(order: Order) -> str:
    return order.config.scratch or f"{tempfile.gettempdir()}/raycurate-{os.getuid()}"


def local_output(order: Order) -> str:
    """The folder on each machine where the training of a remote run writes, before that is copied out."""
    return f"{_scratch(order)}/models-{order.run_id}-{order.noun.label}"


def local_rows(order: Order) -> str:
    """The folder on each machine with the rows of a training as its processes map them into memory."""
    return f"{_scratch(order)}/rows-{order.run_id}-{order.noun.label}"


def remove_local_files(order: Order) -> None:
    """Remove what the workers left on any machine of the cluster; a machine that does not answer keeps it."""
    folders = (local_rows(order), local_output(order))

    def remove_here() -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    remove = ray.remote(remove_here)
    tasks = [
        remove.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()
        if node["Alive"]
    ]
    ray.wait(tasks, num_returns=len(tasks), timeout=REMOVE_SECONDS)


def _keep_to_device(order: Order) -> None:
    if not order.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # before anything imports deepspeed
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _set_libraries_aside() -> None:
    """Take what is imported out of the garbage collection, once in a process that trains many times.

    `Trainer` collects before every training; going through the libraries' half a million objects takes 0.4 s, which is
    as long as a small training.
    """
    import raycurate.training.loop  # noqa: F401 - to be among them

    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


class _Worker:
    """A training process."""

    def __init__(self, order: Order, *, rank: int, local_rank: int, on_train: bool) -> None:
        from raycurate.training.mirror import Mirror

        self.order, self.config, self.noun = order, order.config, order.noun
        self.rank, self.local_rank, self.on_train = rank, local_rank, on_train
        self.first: float | None = None
        self.last_note = 0.0
        self.scratch = local_rows(order)
        filesystem, self.output = self.noun.filesystem, self.noun.folder
        self.mirror = None
        if not isinstance(filesystem, pafs.LocalFileSystem):
            self.output = local_output(order)
            self.mirror = Mirror(Path(self.output), filesystem, self.noun.folder)

    def run(self) -> Any:
        """The outcome. A local copy of a remote run's folder goes at the end, also after an error: all is there."""
        try:
            return self._run()
        finally:
            if self.mirror is not None and self.local_rank == 0:
                shutil.rmtree(self.output, ignore_errors=True)

    def _run(self) -> Any:
        from raycurate.device import require_gpu

        if self.order.on_gpu:
            require_gpu("finetune")
        from raycurate.training.loop import LoopSettings, train

        if self.mirror is not None and self.local_rank == 0:
            self.mirror.fetch_checkpoint()
        if self.mirror is not None:
            self._wait_for_all()
        outcome = train(
            LoopSettings(
                config=self.config,
                sources=self.order.sources,
                held_out=self.order.held_out,
                score_features=self.order.score_features,
                order=self.order.row_order,
                tasks=self.order.tasks,
                task_weights=self.order.weights,
                output=self.output,
                scratch=self.scratch,
                on_gpu=self.order.on_gpu,
                name=f"{self.noun.noun}/{self.noun.label}",
            ),
            self._report,
        )
        if self.mirror is not None and self.rank == 0:
            self.mirror.send("final", "logs")
        return outcome

    def _report(self, numbers: dict[str, float], checkpoint: str | None) -> None:
        """Leave a note for the driver; with a checkpoint also tell Ray Train (and so Tune), and mirror it if remote.

        Ray Train hears of checkpoints only: its `report` waits for the controller's next poll, which takes seconds.
        """
        if checkpoint is not None and self.mirror is not None:
            name = checkpoint.rsplit("/", 1)[-1]
            if self.local_rank == 0:
                keep = self.config.keep_checkpoints
                first = self.rank == 0
                self.mirror.send_checkpoint(name, wait_for_all=self._wait_for_all, first=first, keep=keep)
            else:
                self._wait_for_all()
        if checkpoint is not None and self.on_train:
            ray.train.report({**numbers, "checkpoint_path": checkpoint})
        if self.rank == 0:
            self._note(numbers)

    def _note(self, numbers: dict[str, float]) -> None:
        if self.first is None:
            self.first = numbers["step"] - 1
        now = time.monotonic()
        if "loss" in numbers and now - self.last_note >= POLL_SECONDS:
            self.last_note = now
            note: dict[str, float] = {
                "first": int(self.first),
                "step": int(numbers["step"]),
                "steps": int(numbers["steps"]),
            }
            note |= {"loss": numbers["loss"], "tokens_seen": numbers["tokens_seen"], "time": time.time()}
            self.noun.write_json(STEP_FILE, {**note, "pid": os.getpid()})

    @staticmethod
    def _wait_for_all() -> None:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()
