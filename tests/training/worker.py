"""Training processes for tests: each with its RANK and WORLD_SIZE, and an order in a JSON file.

A process trains with `loop.train` (or, with "plain", transformers' own Trainer on the same batches) and writes what
came out. Importing torch, transformers and DeepSpeed is most of what a short training takes, so the processes are
forked from one that has imported them and done nothing else.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.distributed
from transformers import TrainingArguments

from jobs.bench_trainer import PlainTrainer
from raycurate.run.store import Noun
from raycurate.training import head_losses, loop
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenSource
from raycurate.training.loop import LoopSettings

PRELOADED = [
    __name__,
    "deepspeed",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llava.modeling_llava",
]
DEADLINE = 240.0


def train_apart(
    order: Path, ranks: int, environment: Mapping[str, str], work: Callable[[Path], None] | None = None
) -> None:
    """Run the order in so many processes.

    Args:
        order: a JSON file.
        ranks: processes.
        environment: of each of them, without its rank.
        work: a module's function that does what the order says; `main` unless another is given.

    Raises:
        AssertionError: one of them failed; with the end of what rank 0 wrote to stderr.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        processes.append(context.Process(target=_work, args=(order, own, work or main)))
        processes[-1].start()
    for process in processes:
        process.join(DEADLINE)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * ranks, f"exit codes {codes}: {_errors(order, 0).read_text()[-3000:]}"


def _errors(order: Path, rank: int) -> Path:
    return order.with_name(f"stderr-{rank}.txt")


def _work(order: Path, environment: dict[str, str], work: Callable[[Path], None]) -> None:
    """In the new process. Trainings collect garbage often, and most objects are the libraries', which never go."""
    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    with open(_errors(order, int(environment["RANK"])), "w", encoding="utf-8") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    work(order)


def main(path: Path) -> None:
    """Run the order in a JSON file."""
    order: dict[str, Any] = json.loads(path.read_text())
    world = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    if order.get("chunk_logits"):
        head_losses.CHUNK_LOGITS = order["chunk_logits"]
    if order.get("arguments"):
        _change_arguments(order["arguments"])
    if order.get("plain"):
        loop.VitwTrainer = PlainTrainer  # its own loss over the same rows in the same order
    settings = LoopSettings(
        config=FinetuneConfig(**{**order["config"], "workers": world, "threads": 1}),
        sources=(TokenSource(Noun(*order["tokens"])),),
        tasks=tuple(order["tasks"]),
        task_weights=tuple(order["weights"]),
        score_features=Noun(*order["features"]) if order.get("features") else None,
        output=order["output"],
        scratch=order["scratch"],
    )
    outcome = loop.train(settings)
    if int(os.environ["RANK"]) == 0:
        Path(order["output"], "outcome.json").write_text(json.dumps(asdict(outcome)))
    torch.distributed.destroy_process_group()


def _change_arguments(changes: dict[str, Any]) -> None:
    """Training arguments that are no settings of the product, such as plain SGD."""
    make = loop.training_arguments

    def changed(settings: LoopSettings) -> TrainingArguments:
        return replace(make(settings), **changes)

    loop.training_arguments = changed
