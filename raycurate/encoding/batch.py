"""A model-ready batch: tensors of several rows with every distinct image stored once, and its byte form.

A row is a sequence of tokens in which an image stands as a run of placeholder tokens. A *slot* is one image position
of one row, in row order; several slots may show one image. Image tensors are kept per distinct image, concatenated
along axis 0 (`image_splits` has each image's share of that axis), so a batch costs pixel bytes per distinct image.

Bytes are safetensors (no pickle): one tensor per field and a JSON header as uint8.
Shapes: B rows, T padded tokens, S slots, U distinct images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch

_IMAGE_PREFIX = "image."


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """Rows that go through the model together.

    `rows` are the positions of the rows in the window that they came from. `image_counts` has the slots of each row
    [B], `image_index_S` the distinct image of each slot, `image_tokens_U` the placeholder tokens of each distinct
    image. `nested_images` marks families whose image tensors carry a leading axis [1, tiles, ...].
    """

    keys: tuple[str, ...]
    rows: tuple[int, ...]
    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    text_mask_BT: torch.Tensor
    image_counts: tuple[int, ...]
    image_index_S: torch.Tensor
    image_tokens_U: torch.Tensor
    image_inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    image_splits: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mm_token_type_ids_BT: torch.Tensor | None = None
    nested_images: bool = False

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return len(self.keys)

    @property
    def num_tokens(self) -> int:
        """Padded tokens in the batch, B*T."""
        return self.input_ids_BT.numel()

    @property
    def right_padded(self) -> bool:
        """Whether every row starts at position 0."""
        return bool(self.attention_mask_BT[:, 0].all())

    def images_at(self, index: Sequence[int], *, pixels: bool = True) -> dict[str, torch.Tensor]:
        """The image tensors of the distinct images `index`, in that order, repeats allowed.

        Without `pixels` only the small tensors beside them, such as patch grids.
        """
        names = [name for name in self.image_inputs if pixels or not name.startswith("pixel_")]
        if list(index) == list(range(len(self.image_tokens_U))):
            return {name: self.image_inputs[name] for name in names}
        picked = {}
        for name in names:
            parts = torch.split(self.image_inputs[name], list(self.image_splits[name]))
            picked[name] = torch.cat([parts[i] for i in index])
        return picked

    def take(self, start: int, stop: int) -> PreparedBatch:
        """Rows start..stop-1 as a batch of their own: images nobody shows any more and padding columns are cut."""
        first_slot, last_slot = sum(self.image_counts[:start]), sum(self.image_counts[:stop])
        slots = self.image_index_S[first_slot:last_slot].tolist()
        kept = sorted(set(slots))
        new_index = {old: new for new, old in enumerate(kept)}
        columns = self.attention_mask_BT[start:stop].any(dim=0).nonzero().flatten()
        left, right = int(columns[0]), int(columns[-1]) + 1

        def cut(tensor_BT: torch.Tensor) -> torch.Tensor:
            return tensor_BT[start:stop, left:right].contiguous()

        return PreparedBatch(
            keys=self.keys[start:stop],
            rows=self.rows[start:stop],
            input_ids_BT=cut(self.input_ids_BT),
            attention_mask_BT=cut(self.attention_mask_BT),
            text_mask_BT=cut(self.text_mask_BT),
            image_counts=self.image_counts[start:stop],
            image_index_S=torch.tensor([new_index[i] for i in slots], dtype=torch.int32),
            image_tokens_U=self.image_tokens_U[kept],
            image_inputs=self.images_at(kept) if kept else {},
            image_splits={name: tuple(splits[i] for i in kept) for name, splits in self.image_splits.items()}
            if kept
            else {},
            mm_token_type_ids_BT=None if self.mm_token_type_ids_BT is None else cut(self.mm_token_type_ids_BT),
            nested_images=self.nested_images,
        )

    def to_bytes(self) -> bytes:
        """Safetensors bytes, the same for equal batches."""
        header = {
            "keys": self.keys,
            "rows": self.rows,
            "image_counts": self.image_counts,
            "image_splits": self.image_splits,
            "nested_images": self.nested_images,
        }
        tensors = {
            "header": torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8),
            "input_ids": self.input_ids_BT,
            "attention_mask": self.attention_mask_BT,
            "text_mask": self.text_mask_BT,
            "image_index": self.image_index_S,
            "image_tokens": self.image_tokens_U,
        }
        if self.mm_token_type_ids_BT is not None:
            tensors["mm_token_type_ids"] = self.mm_token_type_ids_BT
        tensors |= {_IMAGE_PREFIX + name: tensor for name, tensor in self.image_inputs.items()}
        return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> PreparedBatch:
        """The batch that `to_bytes` wrote; raises `safetensors.SafetensorError` for anything else."""
        tensors = safetensors.torch.load(data)
        header = json.loads(tensors["header"].numpy().tobytes())
        return cls(
            keys=tuple(header["keys"]),
            rows=tuple(header["rows"]),
            input_ids_BT=tensors["input_ids"],
            attention_mask_BT=tensors["attention_mask"],
            text_mask_BT=tensors["text_mask"],
            image_counts=tuple(header["image_counts"]),
            image_index_S=tensors["image_index"],
            image_tokens_U=tensors["image_tokens"],
            image_inputs={
                name.removeprefix(_IMAGE_PREFIX): tensor
                for name, tensor in tensors.items()
                if name.startswith(_IMAGE_PREFIX)
            },
            image_splits={name: tuple(splits) for name, splits in header["image_splits"].items()},
            mm_token_type_ids_BT=tensors.get("mm_token_type_ids"),
            nested_images=header["nested_images"],
        )
