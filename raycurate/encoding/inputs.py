"""A prepared batch as keyword arguments of a model's forward: images shared, positions made, padding told.

Each distinct image of a batch goes through the vision tower once and its outputs are handed to every slot that shows
it, by the `mm_encoder_outputs` argument of transformers' own forwards; families that are not known to read only the
pooled outputs get their pixels repeated instead. For LLaVA-like decoders padded on the right no attention mask is
passed, so that SDPA takes its causal kernel: real tokens never see the padding behind them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from raycurate.encoding.images import NUM_IMAGES

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch
    from raycurate.models.adapter import VLM


def types_name(network: Any) -> str:
    """What a model calls the types of its tokens (text, image, ...): most after the processors, Gemma 3 after BERT."""
    base = network.get_base_model() if hasattr(network, "get_base_model") else network  # inside of peft's
    accepted = inspect.signature(base.forward).parameters
    return "mm_token_type_ids" if "mm_token_type_ids" in accepted else "token_type_ids"


def image_tensors(batch: PreparedBatch, slots: Sequence[int], *, pixels: bool = True) -> dict[str, torch.Tensor]:
    """The image tensors of a batch as its model takes them, one entry for each slot."""
    tensors = _nest(batch.images_at(slots, pixels=pixels), batch.nested_images)
    if NUM_IMAGES in tensors:
        tensors[NUM_IMAGES] = torch.tensor([count for count in batch.image_counts if count])
    return tensors


class ModelInputs:
    """Makes the inputs of one model."""

    def __init__(self, vlm: VLM, *, generating: bool = False) -> None:
        """Look at what the model's forward takes.

        Args:
            vlm: a loaded model.
            generating: for `generate`, which continues mask and positions itself.
        """
        self.vlm, self._generating = vlm, generating
        self._accepts = frozenset(inspect.signature(vlm.model.forward).parameters)
        self._types_name = types_name(vlm.model)
        self._inner = getattr(vlm.model, "model", vlm.model)

    def __call__(self, batch: PreparedBatch) -> dict[str, Any]:
        """Keyword arguments of the model's forward, on its device."""
        slots = batch.image_index_S.tolist()
        share = self.vlm.shares_images and len(slots) > len(batch.image_tokens_U)
        per_slot = image_tensors(batch, slots, pixels=not share)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids_BT.long()}
        if self._generating or not (self.vlm.causal and batch.right_padded):
            inputs["attention_mask"] = batch.attention_mask_BT.long()
        if batch.mm_token_type_ids_BT is not None:
            inputs[self._types_name] = batch.mm_token_type_ids_BT.long()
        position_ids = None if self._generating else self._position_ids(batch, per_slot)
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        inputs |= per_slot
        inputs = {name: self._to_device(value) for name, value in inputs.items() if name in self._accepts}
        if share:
            inputs["mm_encoder_outputs"] = {"image": self._encode_once(batch, slots)}
        return inputs

    def _position_ids(self, batch: PreparedBatch, per_slot: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Multi-axis rotary positions of Qwen-VL models, computed on the CPU where their row loop needs no sync."""
        rope_index = getattr(self._inner, "get_rope_index", None)
        if rope_index is None or not self.vlm.causal or "image_grid_thw" not in per_slot:
            return None
        assert batch.mm_token_type_ids_BT is not None, "Qwen-VL processors mark image tokens"
        positions, _ = rope_index(
            input_ids=batch.input_ids_BT.long(),
            mm_token_type_ids=batch.mm_token_type_ids_BT.long(),
            image_grid_thw=per_slot["image_grid_thw"].long(),
            attention_mask=batch.attention_mask_BT.long(),
        )
        return positions

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self.vlm.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.vlm.device, dtype=dtype, non_blocking=True)

    def _encode_once(self, batch: PreparedBatch, slots: list[int]) -> Any:
        """Encoder outputs with one entry per slot, from one pass over the distinct images."""
        accepted = inspect.signature(self._inner.get_image_features).parameters
        tensors = image_tensors(batch, range(len(batch.image_tokens_U)))
        encoded = self._inner.get_image_features(
            **{name: self._to_device(value) for name, value in tensors.items() if name in accepted}, return_dict=True
        )
        stops = batch.image_tokens_U.long().cumsum(0).tolist()
        starts = [0, *stops[:-1]]
        index = torch.cat([torch.arange(starts[u], stops[u]) for u in slots]).to(self.vlm.device)
        encoded.pooler_output = _spread(encoded.pooler_output, index, stops[-1])
        if getattr(encoded, "deepstack_features", None) is not None:
            encoded.deepstack_features = [_spread(each, index, stops[-1]) for each in encoded.deepstack_features]
        return encoded


def _spread(features: Any, index: torch.Tensor, num_tokens: int) -> Any:
    """Token features of distinct images, as a tensor or a list of tensors, to those of slots in the same form."""
    is_tensor = isinstance(features, torch.Tensor)
    tokens = features if is_tensor else torch.cat([each.reshape(-1, each.shape[-1]) for each in features])
    flat = tokens.reshape(-1, tokens.shape[-1])
    if flat.shape[0] != num_tokens:
        raise ValueError(f"the vision tower gave {flat.shape[0]} tokens for {num_tokens} image placeholders")
    return flat[index] if is_tensor else [flat[index]]


def _nest(tensors: dict[str, torch.Tensor], nested: bool) -> dict[str, torch.Tensor]:
    """Add the leading axis that SmolVLM-like models expect."""
    return {name: value.unsqueeze(0) for name, value in tensors.items()} if nested else dict(tensors)
