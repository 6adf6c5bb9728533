"""One training process, started by tests with RANK and WORLD_SIZE set: `python -m tests.training.worker ORDER.json`.

Trains with `loop.train` (or, with "plain", transformers' own Trainer on the same batches) and writes what came out.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"


def main(path: str) -> None:
    """Run the order in a JSON file."""
    import torch
    import torch.distributed

    from raycurate.store import Noun
    from raycurate.training import head_losses, loop
    from raycurate.training.config import FinetuneConfig
    from raycurate.training.data import TokenSource
    from raycurate.training.loop import LoopSettings

    order: dict[str, Any] = json.loads(Path(path).read_text())
    world = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    if order.get("chunk_logits"):
        head_losses.CHUNK_LOGITS = order["chunk_logits"]
    if order.get("arguments"):
        _change_arguments(loop, order["arguments"])
    if order.get("plain"):
        _use_plain_trainer(loop)
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


def _change_arguments(loop: Any, changes: dict[str, Any]) -> None:
    """Training arguments that are no settings of the product, such as plain SGD."""
    make = loop.training_arguments

    def changed(settings: Any) -> Any:
        import dataclasses

        return dataclasses.replace(make(settings), **changes)

    loop.training_arguments = changed


def _use_plain_trainer(loop: Any) -> None:
    """transformers' own loss over the same rows in the same order."""
    from raycurate.training.bench import PlainTrainer

    loop.VitwTrainer = PlainTrainer


if __name__ == "__main__":
    main(sys.argv[1])
