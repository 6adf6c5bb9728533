"""The loss of a trained model on rows that it was not trained on: mean cross-entropy of an answer token, by task.

    L_k = sum of CE over the valid tokens of task k / their number

Every rank goes through all rows, so that DDP and ZeRO meet in each forward pass. Cost: one forward pass per row.
"""

from __future__ import annotations

from typing import Any

import torch

from raycurate.encoding.inputs import types_name
from raycurate.training.collate import Collator
from raycurate.training.data import TokenDataset, epoch_order
from raycurate.training.trainer import VitwTrainer


def held_out_losses(trainer: VitwTrainer, dataset: TokenDataset, processor: Any) -> dict[str, dict[str, float]]:
    """Return `loss` and `tokens` of each task that has rows in `dataset`, whose tasks must be the trainer's."""
    rows = trainer.args.train_batch_size
    order = epoch_order(dataset.lengths_N, group_rows=rows, seed=0, epoch=0, group_by_length=True)
    network = trainer.model_wrapped
    collate = Collator(processor, dataset, types_name(trainer.model))
    network.eval()
    tokens_K = torch.zeros(len(trainer.tasks), dtype=torch.float64)
    losses_K = torch.zeros_like(tokens_K)
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, len(order), rows):
            batch = collate([dataset[int(index)] for index in order[start : start + rows]])
            batch = {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            sums, _ = trainer.loss_sums(network, batch)
            tokens_K += sums.tokens_K.cpu()
            losses_K += sums.losses_K.cpu()
    return {
        task: {"loss": float(losses_K[k] / tokens_K[k]), "tokens": float(tokens_K[k])}
        for k, task in enumerate(trainer.tasks)
        if tokens_K[k] > 0
    }
