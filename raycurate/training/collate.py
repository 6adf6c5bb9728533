"""Rows to one padded batch with labels, tasks, and the positions whose logits the loss needs.

Padding is on the right: causal decoders then see the same tokens with or without it. A batch that has no image while
the dataset has some gets the blank row added (all labels masked): under DDP and ZeRO every rank must use the projector
in every step, and an optimizer must see the same parameters whatever the batches were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from raycurate.encoding.images import NUM_IMAGES, concatenate
from raycurate.training.data import TrainingRow
from raycurate.training.vitw import IGNORED, kept_positions

TASK_IDS = "task_ids"
POSITIONS = "kept_positions"


class BlankSource(Protocol):
    """Where the blank row comes from: a dataset whose row `num_rows` is blank."""

    has_images: bool

    @property
    def num_rows(self) -> int:
        """The blank row's number."""
        ...

    def __getitem__(self, index: int) -> TrainingRow: ...


class Collator:
    """Makes batches for one processor."""

    def __init__(self, processor: Any, dataset: BlankSource, types_name: str = "mm_token_type_ids") -> None:
        """Set up.

        Args:
            processor: of the model.
            dataset: gives the blank row.
            types_name: what the model calls the types of tokens (`encoding.inputs.types_name`).
        """
        tokenizer = processor.tokenizer
        self._dataset = dataset
        self._pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        self._types = [i for i in getattr(processor, "image_token_ids", []) if i is not None]
        self.types_name = types_name
        self._wants_types = bool(getattr(processor, "return_mm_token_type_ids", False))

    def __call__(self, rows: Sequence[TrainingRow]) -> dict[str, torch.Tensor]:
        """Pad and stack: `input_ids`, `attention_mask`, `labels` [B, T], `task_ids` [B], `kept_positions` [P]."""
        rows = list(rows)
        if self._dataset.has_images and not any(row.images for row in rows):
            rows.append(self._dataset[self._dataset.num_rows])
        length = max(len(row.ids_T) for row in rows)
        ids_BT = np.full((len(rows), length), self._pad_id, dtype=np.int64)
        labels_BT = np.full((len(rows), length), IGNORED, dtype=np.int64)
        attention_BT = np.zeros((len(rows), length), dtype=np.int64)
        for b, row in enumerate(rows):
            ids_BT[b, : len(row.ids_T)] = row.ids_T
            labels_BT[b, : len(row.ids_T)] = row.labels_T
            attention_BT[b, : len(row.ids_T)] = 1
        batch = {
            "input_ids": torch.from_numpy(ids_BT),
            "attention_mask": torch.from_numpy(attention_BT),
            "labels": torch.from_numpy(labels_BT),
            TASK_IDS: torch.tensor([row.task for row in rows]),
        }
        batch[POSITIONS] = kept_positions(batch["labels"])
        if self._wants_types:
            batch[self.types_name] = torch.from_numpy(np.isin(ids_BT, self._types).astype(np.int64) * attention_BT)
        return batch | _image_inputs(rows)


def _image_inputs(rows: Sequence[TrainingRow]) -> dict[str, torch.Tensor]:
    """The tensors of every shown image, in order."""
    shown = [image for row in rows for image in row.images]
    if not shown:
        return {}
    tensors = {name: concatenate([image.tensors[name] for image in shown]) for name in shown[0].tensors}
    if NUM_IMAGES in tensors:
        tensors[NUM_IMAGES] = torch.tensor([len(row.images) for row in rows if row.images])
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()} if shown[0].nested else tensors
