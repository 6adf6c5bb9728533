"""Tiny models of every family, built once per session, and a slow reference extraction to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raycurate.models.adapter import VLM, load_vlm
from tests.tiny_vlms import make_tiny_vlm

PREFIXES = {
    "llava": "USER: ",
    "smolvlm": "<|im_start|>User:",
    "qwen2_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "qwen3_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "internvl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
}


def make_image(seed: int, width: int, height: int) -> Image.Image:
    """A small noise image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_sample(key: str, images: list[Any], *turns: str) -> dict[str, Any]:
    """A sample whose turns alternate between user and assistant."""
    messages = [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(turns)]
    return {"key": key, "messages": messages, "images": images}


@pytest.fixture(scope="session")
def samples() -> list[dict[str, Any]]:
    """Rows with shared images, several images in a row, several turns, and no image."""
    a, b, c = make_image(0, 40, 30), make_image(1, 28, 56), make_image(2, 90, 20)
    return [
        make_sample("k0", [a], "<image>\nWhat is it?", "A cat."),
        make_sample("k1", [a], "<image>\nHow many?", "Two cats there.", "And now?", "Three."),
        make_sample("k2", [], "Hello there", "Hi"),
        make_sample("k3", [a, b], "First <image> then <image> which?", "the second"),
        make_sample("k4", [c], "Look\n<image>", "ok"),
        make_sample("k5", [b, b], "<image><image>same?", "yes"),
    ]


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VLM]:
    """Loads (and builds, once) the tiny model of a family."""
    loaded: dict[str, VLM] = {}

    def get(family: str) -> VLM:
        if family not in loaded:
            folder = make_tiny_vlm(family, tmp_path_factory.mktemp(family))
            loaded[family] = load_vlm(str(folder), device="cpu", dtype="float32")
        return loaded[family]

    return get


def reference_row(vlm: VLM, family: str, sample: dict[str, Any], modules: list[torch.nn.Module]) -> np.ndarray:
    """One row alone: the processor's own call, the full forward with every layer, and float64 pooling."""
    processor = vlm.processor
    blocks = []
    for message in sample["messages"]:
        parts: list[dict[str, str]] = []
        for i, piece in enumerate(message["text"].split("<image>")):
            parts += [{"type": "image"}] if i else []
            parts += [{"type": "text", "text": piece.strip("\n")}] if piece.strip("\n") else []
        blocks.append({"role": message["role"], "content": parts})
    text = processor.apply_chat_template(blocks, tokenize=False)
    images = [sample["images"]] if sample["images"] else None
    inputs = processor(text=[text], images=images, return_tensors="pt")
    text_mask = _reference_text_mask(processor, family, text, sample["images"], inputs["input_ids"][0])

    captured: list[torch.Tensor] = []
    handles = [m.register_forward_hook(lambda _m, _i, out: captured.append(out)) for m in modules]
    accepted = {k: v for k, v in inputs.items() if k not in ("num_patches",)}
    with torch.no_grad():
        vlm.model(**accepted)
    for handle in handles:
        handle.remove()
    visual_mask = (inputs["input_ids"][0] == vlm.image_token_id).numpy()
    return naive_row([c[0].double().numpy() for c in captured], visual_mask, text_mask)


def naive_row(layers: list[np.ndarray], visual: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The definition, one block at a time, in float64."""
    blocks = []
    for activations in layers:
        for mask in (visual, text):
            if not mask.any():
                blocks.append(np.zeros(activations.shape[1]))
                continue
            squashed = np.tanh(sum(activations[t] for t in np.flatnonzero(mask)) / mask.sum())
            blocks.append(squashed / math.sqrt(sum(x * x for x in squashed)))
    share = 2 * len(layers) if visual.any() else len(layers)
    return np.concatenate(blocks) / math.sqrt(share)


def _reference_text_mask(processor: Any, family: str, text: str, images: list[Any], ids: torch.Tensor) -> np.ndarray:
    """Text tokens from character offsets in the expanded string."""
    image_kwargs = {"return_row_col_info": True} if family == "smolvlm" else {}
    image_kwargs |= {"crop_to_patches": True} if family == "internvl" else {}
    replacements = [processor._process_images([i], return_tensors="pt", **image_kwargs)[1][0] for i in images]
    prefix = PREFIXES[family]
    assert text.startswith(prefix)
    expanded, is_text = "", []
    for n, piece in enumerate(text.split(processor.image_token)):
        if n:
            expanded += replacements[n - 1]
            is_text += [False] * len(replacements[n - 1])
        expanded += piece
        is_text += [True] * len(piece)
    is_text[: len(prefix)] = [False] * len(prefix)
    encoded = processor.tokenizer(expanded, return_offsets_mapping=True)
    assert encoded["input_ids"] == ids.tolist()
    wrappers = set(processor.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"]))
    return np.array(
        [
            stop > start and is_text[start] and token not in wrappers
            for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
    )
