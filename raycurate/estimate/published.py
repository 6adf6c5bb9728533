"""Configurations of well-known reference models, for machines that do not have them and cannot ask the hub.

Sizes are those of the models' own config.json; nothing else of them matters here.
"""

from __future__ import annotations

from typing import Any

_CLIP_LARGE = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def _llava(**text: int) -> dict[str, Any]:
    return {
        "model_type": "llava",
        "vision_config": _CLIP_LARGE,
        "text_config": {"model_type": "llama", "vocab_size": 32_064, **text},
        "image_token_index": 32_000,
        "vision_feature_layer": -2,
        "image_seq_length": 576,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "bczhou/tiny-llava-v1-hf": _llava(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
    ),
    "llava-hf/llava-1.5-7b-hf": _llava(
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    ),
    "llava-hf/llava-1.5-13b-hf": _llava(
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
    ),
}
"""By the name on the hub."""
PUBLISHED_CLIP: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {
        "model_type": "clip",
        "projection_dim": 768,
        "vision_config": _CLIP_LARGE,
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
        },
    },
}
"""The same of models that compare images with texts."""
