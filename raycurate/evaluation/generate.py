"""Batched greedy answers of a vision-language model, by transformers' own `generate` with a key-value cache.

A batch is left-padded, so all answers begin in one column; an answer ends with the token that ends a turn, which is
not part of its text. Every distinct image of a batch goes through the vision tower once where the family allows to
hand its outputs to several rows (`VLM.shares_images`). Sampling settings that come with a checkpoint are dropped:
greedy means the most likely token at every step, no penalty.

Memory: the cache of B x (T + new tokens); when that is too much the batch is halved, and a question that does not fit
alone is returned as None. Cost: one prefill, then one decoder pass over B tokens per new token until the longest
answer of the batch ends. In 16 bits a row's answer may differ with its batch where two tokens are almost equally
likely; batches are made from the rows alone, so a rerun gives the same answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raycurate.encoding.answers import AnswerRenderer
from raycurate.encoding.batch import PreparedBatch


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote: its text without outer white space, its tokens, and whether it ended its turn."""

    text: str
    num_tokens: int
    finished: bool


def stop_tokens(processor: Any, network: Any) -> list[int]:
    """The tokens that end an answer: EOS of tokenizer and checkpoint, and what the template ends turns with."""
    tokenizer, renderer = processor.tokenizer, AnswerRenderer(processor)
    given = getattr(network.generation_config, "eos_token_id", None)
    found = set(given if isinstance(given, list | tuple) else [given]) | {tokenizer.eos_token_id}
    for ending in (renderer.ending, renderer.appended):
        found.update(tokenizer(ending, add_special_tokens=False)["input_ids"][-1:] if ending else ())
    return sorted(found - {None})


class Generator:
    """Answers batches with one loaded model (`models.adapter.VLM`)."""

    def __init__(self, vlm: Any, *, max_new_tokens: int) -> None:
        """Set up; replaces the network's generation settings by greedy ones."""
        self.vlm, self.network, self.tokenizer = vlm, vlm.model, vlm.processor.tokenizer
        self.stops = stop_tokens(vlm.processor, self.network)
        pad = self.tokenizer.pad_token_id
        self.network.generation_config = type(self.network.generation_config)(
            eos_token_id=self.stops or None,
            pad_token_id=pad if pad is not None else next(iter(self.stops), 0),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            use_cache=True,
        )
        self._accepts = frozenset(inspect.signature(self.network.forward).parameters)
        self._inner = getattr(self.network, "model", self.network)

    def answer(self, batch: PreparedBatch) -> list[Answer | None]:
        """One answer per row of a left-padded batch; None for a row that does not fit into memory alone."""
        try:
            return list(self._answer(batch))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            error.__traceback__ = None  # its frames hold the tensors of the failed pass
        if self.vlm.device.type == "cuda":
            torch.cuda.empty_cache()
        if batch.num_rows == 1:
            return [None]
        middle = batch.num_rows // 2
        return self.answer(batch.take(0, middle)) + self.answer(batch.take(middle, batch.num_rows))

    @torch.inference_mode()
    def _answer(self, batch: PreparedBatch) -> list[Answer]:
        written_BT = self.network.generate(**self._inputs(batch))[:, batch.input_ids_BT.shape[1] :].cpu()
        answers = []
        for ids in written_BT.tolist():
            stop = next((i for i, token in enumerate(ids) if token in self.stops), None)
            text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
            answers.append(Answer(text, len(ids) if stop is None else stop + 1, stop is not None))
        return answers

    def _inputs(self, batch: PreparedBatch) -> dict[str, Any]:
        """Keyword arguments of `generate`, on the model's device."""
        slots = batch.image_index_S.tolist()
        share = self.vlm.shares_images and len(slots) > len(batch.image_tokens_U)
        tensors = {"input_ids": batch.input_ids_BT.long(), "attention_mask": batch.attention_mask_BT.long()}
        if batch.mm_token_type_ids_BT is not None:
            name = "mm_token_type_ids" if "mm_token_type_ids" in self._accepts else "token_type_ids"
            tensors[name] = batch.mm_token_type_ids_BT.long()
        tensors |= _nested(batch, batch.images_at(slots, pixels=not share))
        inputs: dict[str, Any] = {name: self._on_device(t) for name, t in tensors.items() if name in self._accepts}
        if share:
            inputs["mm_encoder_outputs"] = {"image": self._encode_once(batch, slots)}
        return inputs

    def _encode_once(self, batch: PreparedBatch, slots: Sequence[int]) -> Any:
        """Encoder outputs with one entry per slot, from one pass over the distinct images."""
        accepted = inspect.signature(self._inner.get_image_features).parameters
        tensors = _nested(batch, batch.image_inputs)
        encoded = self._inner.get_image_features(
            **{name: self._on_device(tensor) for name, tensor in tensors.items() if name in accepted}, return_dict=True
        )
        stops = batch.image_tokens_U.long().cumsum(0).tolist()
        starts = [0, *stops[:-1]]
        index = torch.cat([torch.arange(starts[u], stops[u]) for u in slots]).to(self.vlm.device)
        encoded.pooler_output = _spread(encoded.pooler_output, index)
        if getattr(encoded, "deepstack_features", None) is not None:
            encoded.deepstack_features = [_spread(each, index) for each in encoded.deepstack_features]
        return encoded

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.vlm.device, dtype=self.vlm.dtype if tensor.is_floating_point() else tensor.dtype)


def _spread(features: Any, index: torch.Tensor) -> Any:
    """Token features of distinct images, as a tensor or a list of tensors, to those of slots in the same form."""
    is_tensor = isinstance(features, torch.Tensor)
    tokens = [features] if is_tensor else features
    picked = torch.cat([each.reshape(-1, each.shape[-1]) for each in tokens])[index]
    return picked if is_tensor else [picked]


def _nested(batch: PreparedBatch, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the leading axis that SmolVLM-like models expect."""
    return {name: t.unsqueeze(0) for name, t in tensors.items()} if batch.nested_images else dict(tensors)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
