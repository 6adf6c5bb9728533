"""Samples, batches, models and comparisons for the tests on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from raycurate.models.adapter import VLM, load_vlm

FAMILIES = ("tiny", "llava", "smolvlm", "qwen2_vl", "qwen3_vl", "internvl")


def image(seed: int, width: int, height: int) -> Image.Image:
    """A small noise image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sample(key: str, images: list[tuple[int, int, int]], *turns: str) -> dict[str, Any]:
    """A sample whose turns alternate; images by (seed, width, height)."""
    return {
        "key": key,
        "task": "t",
        "messages": [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(turns)],
        "images": [lambda shape=shape: image(*shape) for shape in images],
        "image_keys": [str(shape) for shape in images],
    }


A, B, C = (0, 40, 30), (1, 28, 56), (2, 90, 20)
SAMPLES = [
    sample("k0", [A], "<image>\nWhat is it?", "A cat."),
    sample("k1", [A], "<image>\nHow many?", "Two cats there.", "And now?", "Three."),
    sample("k2", [], "Hello there", "Hi"),
    sample("k3", [A, B], "First <image> then <image> which?", "the second"),
    sample("k4", [C], "Look\n<image>", "ok"),
    sample("k5", [B, B], "<image><image>same?", "yes"),
]


def load(folder: str, device: torch.device | str, dtype: str = "float32") -> VLM:
    """A model on a device."""
    return load_vlm(folder, device=str(device), dtype=dtype)


def largest_gap(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference beyond one step of float16, as both were rounded to it."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    step = np.spacing(np.maximum(np.abs(found), np.abs(expected)).astype(np.float16)).astype(np.float64)
    return float((np.abs(found - expected) - step).max())


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(axis=1) / norms
