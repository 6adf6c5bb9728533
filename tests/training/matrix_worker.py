"""What one process does that trains every combination of a list in turn, for `worker.train_apart`.

Each is one step with a checkpoint, and a second training that goes on from there by one more step. For some a third
one finds code in the place of the pickles of its checkpoint. Writes what came out; libraries keep what they know of a
training per process, which is forgotten in between.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from raycurate.errors import UserError
from raycurate.run.store import Noun
from raycurate.training import head_losses, loop
from raycurate.training.checkpoints import complete_checkpoint
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenSource
from raycurate.training.loop import LoopSettings


def train_all(path: Path) -> None:
    """Run the order in a JSON file."""
    order: dict[str, Any] = json.loads(path.read_text())
    world = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    head_losses.CHUNK_LOGITS = order["chunk_logits"]
    for name, values in order["combinations"].items():
        settings = LoopSettings(
            config=FinetuneConfig(**{**order["config"], **values, "workers": world, "threads": 1}),
            sources=(TokenSource(Noun(*order["tokens"])),),
            tasks=tuple(order["tasks"]),
            task_weights=(1.0,) * len(order["tasks"]),
            output=f"{order['output']}/{name}",
            scratch=order["scratch"],
        )
        try:
            found = _train_twice(settings)
            if name in order["planted"]:
                found["refused"] = _train_on_planted(settings)
        except Exception:
            found = {"error": traceback.format_exc()}
        if int(os.environ["RANK"]) == 0:
            Path(settings.output).mkdir(exist_ok=True)
            Path(settings.output, "found.json").write_text(json.dumps(found))
        if "error" in found:
            break  # the other ranks may wait in a collective: nothing after this would mean anything
    torch.distributed.destroy_process_group()


def _train_twice(settings: Any) -> dict[str, Any]:
    found = []
    for steps in (1, 2):
        config = settings.config.model_copy(update={"max_steps": steps})
        outcome = loop.train(dataclasses.replace(settings, config=config))
        found.append({"steps": outcome.steps, "resumed_from": outcome.resumed_from, "loss": outcome.loss})
        found[-1]["parallelism"] = outcome.parallelism
        _forget()
    return {"trainings": found}


class _Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def _train_on_planted(settings: Any) -> str:
    """Go on from the checkpoint with a canary in the place of every pickle; the error."""
    if int(os.environ["RANK"]) == 0:
        folder = Path(complete_checkpoint(settings.output) or "")
        for file in [*folder.rglob("*.pt"), *folder.rglob("*.pth")]:
            torch.save(_Canary(folder.parent / "canary"), file)
    torch.distributed.barrier()
    try:
        loop.train(dataclasses.replace(settings, config=settings.config.model_copy(update={"max_steps": 3})))
    except UserError as error:
        return str(error)
    finally:
        _forget()
    return ""


def _forget() -> None:
    """Let libraries forget the training of before, as the end of its process would."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    gc.collect()
    unset_hf_deepspeed_config()
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
