"""Batched greedy answers of a vision-language model, by transformers' own `generate` with a key-value cache.

A batch is left-padded, so all answers begin in one column; an answer ends with the token that ends a turn, which is
not part of its text. Every distinct image of a batch goes through the vision tower once where the family allows to
hand its outputs to several rows (`VLM.shares_images`). Sampling settings that come with a checkpoint are dropped:
greedy means the most likely token at every step, no penalty.

Memory: the cache of B x (T + new tokens); when that is too much the batch is halved, as is every later one that would
need as much, and a question that does not fit alone is returned as None. Cost: one prefill, then one decoder pass over
B tokens per new token until the longest answer of the batch ends. In 16 bits a row's answer may differ with its batch
where two tokens are almost equally likely; batches are made from the rows alone, so a rerun gives the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raycurate.encoding.answers import AnswerRenderer
from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.inputs import ModelInputs
from raycurate.features.survival import is_out_of_memory


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote: its text without outer white space, its tokens, and whether it ended its turn."""

    text: str
    num_tokens: int
    finished: bool


def stop_tokens(processor: Any, settings: Any) -> list[int]:
    """The tokens that end an answer: EOS of tokenizer and of the checkpoint's generation settings, and what the
    template ends turns with.
    """
    tokenizer, renderer = processor.tokenizer, AnswerRenderer(processor)
    given = getattr(settings, "eos_token_id", None)
    found = set(given if isinstance(given, list | tuple) else [given]) | {tokenizer.eos_token_id}
    for ending in (renderer.ending, renderer.appended):
        found.update(tokenizer(ending, add_special_tokens=False)["input_ids"][-1:] if ending else ())
    return sorted(found - {None})


def read_answer(tokenizer: Any, ids: list[int], stops: Sequence[int]) -> Answer:
    """The answer that generated ids are, up to the first that ends it."""
    stop = next((i for i, token in enumerate(ids) if token in stops), None)
    text = tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
    return Answer(text, len(ids) if stop is None else stop + 1, stop is not None)


class Generator:
    """Answers batches with one loaded model (`models.adapter.VLM`)."""

    def __init__(self, vlm: Any, *, max_new_tokens: int) -> None:
        """Set up; replaces the network's generation settings by greedy ones."""
        self.vlm, self.network, self.tokenizer = vlm, vlm.model, vlm.processor.tokenizer
        self.stops = stop_tokens(vlm.processor, self.network.generation_config)
        pad = self.tokenizer.pad_token_id
        self.network.generation_config = type(self.network.generation_config)(
            eos_token_id=self.stops or None,
            pad_token_id=pad if pad is not None else next(iter(self.stops), 0),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            use_cache=True,
        )
        self._inputs = ModelInputs(vlm, generating=True)
        self._max_new_tokens = max_new_tokens
        self._too_many = math.inf

    def answer(self, batch: PreparedBatch) -> list[Answer | None]:
        """One answer per row of a left-padded batch; None for a row that does not fit into memory alone."""
        cached = batch.num_tokens + batch.num_rows * self._max_new_tokens
        if batch.num_rows == 1 or cached < self._too_many:
            try:
                return list(self._answer(batch))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                error.__traceback__ = None  # its frames hold the tensors of the failed pass
            if self.vlm.device.type == "cuda":
                torch.cuda.empty_cache()
            if batch.num_rows == 1:
                return [None]
            self._too_many = cached
        middle = batch.num_rows // 2
        return self.answer(batch.take(0, middle)) + self.answer(batch.take(middle, batch.num_rows))

    @torch.inference_mode()
    def _answer(self, batch: PreparedBatch) -> list[Answer]:
        written_BT = self.network.generate(**self._inputs(batch))[:, batch.input_ids_BT.shape[1] :].cpu()
        return [read_answer(self.tokenizer, ids, self.stops) for ids in written_BT.tolist()]
