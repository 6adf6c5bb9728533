"""What `vllm_process.py` uses of vLLM, over transformers' own `generate`: vLLM itself is not installed where tests run.

It takes the same arguments and prompts, writes an image's run of tokens itself, and answers one prompt after the other.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any


class SamplingParams:
    def __init__(self, *, temperature: float, max_tokens: int, stop_token_ids: list[int], detokenize: bool) -> None:
        assert temperature == 0.0
        assert not detokenize
        self.max_tokens, self.stops = max_tokens, stop_token_ids


class LLM:
    def __init__(self, *, model: str, dtype: str, max_model_len: int, **options: Any) -> None:
        if options.get("model_impl") == "unknown":
            raise ValueError("no such implementation\nand more lines")
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.network = AutoModelForImageTextToText.from_pretrained(model, dtype=getattr(torch, dtype))
        self.processor, self.longest = AutoProcessor.from_pretrained(model), max_model_len
        sys.stdout.write("what a library prints is no answer\n")

    def generate(self, prompts: list[dict[str, Any]], sampling: SamplingParams, *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=self._ids(each, sampling))]) for each in prompts]

    def _ids(self, prompt: dict[str, Any], sampling: SamplingParams) -> list[int]:
        import torch

        images, mark = prompt.get("multi_modal_data", {}).get("image", []), self.processor.image_token_id
        assert prompt["prompt_token_ids"].count(mark) == len(images)
        run = [mark] * self.network.config.image_seq_length
        ids = [token for each in prompt["prompt_token_ids"] for token in (run if each == mark else [each])]
        assert len(ids) <= self.longest
        given = {"input_ids": torch.tensor([ids])}
        if images:
            given |= self.processor.image_processor(images, return_tensors="pt").to(self.network.dtype)
        made = self.network.generate(
            **given, do_sample=False, max_new_tokens=sampling.max_tokens, eos_token_id=sampling.stops, pad_token_id=0
        )
        return made[0, len(ids) :].tolist()
