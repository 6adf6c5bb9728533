"""A small network with random weights for a family: its own configuration with every size cut down."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.family_processors import network_class

LAYERS = 4
TEXT = {
    **{"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    **{"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"), 4),
    **{"num_experts_per_tok": 2, "max_position_embeddings": 1 << 16},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 16},
    **{"depth": 2, "embed_dim": 16, "num_heads": 2, "out_hidden_size": 32},
    **{"num_key_value_heads": 2, "head_dim": 8},
}
_SQUARE = {"vision_config.image_size": 28, "vision_config.patch_size": 14}
_FINE = {"vision_config.image_size": 28, "vision_config.patch_size": 7}
_PATCHES = {"vision_config.patch_size": 14}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_MROPE = {"text_config.rope_parameters": _ROPE}
_DEEPSTACK = {"vision_config.deepstack_visual_indexes": [0, 1]}
_LINEAR = {
    **{"text_config.linear_key_head_dim": 8, "text_config.linear_value_head_dim": 8},
    **{"text_config.linear_num_key_heads": 2, "text_config.linear_num_value_heads": 4},
}
_LATENT = {
    **{"text_config.kv_lora_rank": 16, "text_config.q_lora_rank": 16, "text_config.v_head_dim": 8},
    **{"text_config.qk_nope_head_dim": 8, "text_config.index_head_dim": 8, "text_config.index_n_heads": 2},
}
_PINPOINTS = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
_DENSE_THEN_SPARSE = {"text_config.mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
_PER_LAYER = {"text_config.vocab_size_per_layer_input": 300, "text_config.hidden_size_per_layer_input": 8}
FURTHER: dict[str, dict[str, Any]] = {
    "aria": {
        **{"vision_config.image_size": 980, "vision_config.patch_size": 70},
        **{"projector_patch_to_query_dict": {196: 4}, "max_value_projector_patch_to_query_dict": 4},
    },
    "aya_vision": _FINE,
    "cohere_compass": {
        **{**_PATCHES, **_DEEPSTACK, "text_config.rope_parameters": {"full_attention": _ROPE}},
        "text_config.layer_types": ["full_attention"] * LAYERS,
    },
    "cohere2_vision": {**_FINE, "alignment_intermediate_size": 32},
    "cosmos3_edge": {"text_config.rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}},
    "deepseek_ocr2": {
        **_DENSE_THEN_SPARSE,
        "text_config.num_experts_per_tok": 2,
        "vision_config.sam_config.downsample_channels": [8, 16],
    },
    "deepseek_vl": _SQUARE,
    "deepseek_vl_hybrid": {
        **_SQUARE,
        "high_res_vision_config.image_size": 64,
        "high_res_vision_config.global_attn_indexes": [0, 1],
    },
    "dots3_note": {
        **{**_PATCHES, **_LATENT, **_DENSE_THEN_SPARSE, "text_config.num_key_value_heads": 4},
        **{"text_config.per_layer_config": {}, "text_config.qk_rope_head_dim": 8, "text_config.head_dim": 16},
        **{"text_config.shared_experts_intermediate_size": 16, "vision_config.per_layer_config": {}},
        **{"vision_config.adapter_in_dim": 16, "vision_config.adapter_out_dim": 32, "audio_config.adapter_out_dim": 32},
        "audio_config.adapter_input_size": 16,
    },
    "exaone4_5": _PATCHES,
    "gemma3": {**_SQUARE, "mm_tokens_per_image": 4},
    "gemma3n": {
        **{**_PER_LAYER, "text_config.num_kv_shared_layers": 0, "vision_soft_tokens_per_image": 4},
        **{"vision_config.architecture": "mobilenetv3_small_050", "vision_config.hidden_size": 288},
    },
    "gemma4": {
        "text_config.per_layer_config": {},
        **_PER_LAYER,
        "vision_config": {"model_type": "gemma4_vision", **VISION},
    },
    "glm46v": {**_PATCHES, **_MROPE},
    "glm4v": {**_PATCHES, **_MROPE},
    "glm4v_moe": {**_PATCHES, "text_config.rope_parameters": {**_ROPE, "mrope_section": [1, 1, 0]}},
    "glm_ocr": {**_PATCHES, **_MROPE},
    "glm5_next": {
        **_PATCHES,
        **_LATENT,
        **_DENSE_THEN_SPARSE,
        "text_config.num_key_value_heads": 4,
        "vision_config.out_hidden_size": 32,
        "text_config.linear_head_dim": 8,
        "text_config.linear_num_heads": 2,
    },
    "granite4_vision": {
        **{**_SQUARE, **_PINPOINTS, "downsample_rate": "1/2", "deepstack_layer_map": [[-2, 0], [-1, 1]]},
        **{"spatial_target_layers": [0, 1, 2, 3], "vision_config.hidden_size": 64, "qformer_config.hidden_size": 64},
        "qformer_config.encoder_hidden_size": 64,
    },
    "granite_docling": {"vision_config.image_size": 56, "vision_config.patch_size": 7, **_DEEPSTACK},
    "hyperclovax_vision_v2": _PATCHES,
    "idefics3": _FINE,
    "internvl": {"vision_config.image_size": [28, 28], "vision_config.patch_size": [7, 7]},
    "lfm3_vl": _PATCHES,
    "lighton_ocr": {"vision_config.image_size": 84, **_PATCHES},
    "llama4": {
        **{**_PATCHES, "vision_config.image_size": 56, "vision_config.intermediate_size": 64},
        **dict.fromkeys((f"vision_config.{name}_dim" for name in ("projector_input", "projector_output")), 32),
        "vision_config.vision_output_dim": 32,
    },
    "llava": _SQUARE,
    "llava_next": {**_SQUARE, **_PINPOINTS},
    "llava_next_video": {**_SQUARE, **_PINPOINTS},
    "llava_onevision": {**_SQUARE, **_PINPOINTS, "vision_aspect_ratio": "anyres_max_9"},
    "mistral3": {"vision_config.image_size": 84, **_PATCHES},
    "ovis2": {**_SQUARE, "vision_config.vocab_size": 16, "hidden_size": 32},
    "paddleocr_vl": {**_PATCHES, **_MROPE},
    "qwen2_vl": {**_PATCHES, **_MROPE, "vision_config.hidden_size": 32},
    "qwen2_5_vl": {**_PATCHES, **_MROPE},
    "qwen3_vl": {**_PATCHES, **_MROPE, **_DEEPSTACK},
    "qwen3_vl_moe": {**_PATCHES, **_MROPE, **_DEEPSTACK},
    "qwen3_5": {**_PATCHES, **_MROPE, **_LINEAR},
    "qwen3_5_moe": {**_PATCHES, **_MROPE, **_LINEAR},
    "qwen4_exp": {
        **{**_PATCHES, **_MROPE, **_LINEAR, "text_config.indexer_n_heads": 2, "text_config.indexer_kv_heads": 1},
        **{"text_config.indexer_head_dim": 8, "text_config.indexer_budget": 2048, "text_config.hc_lowrank": 4},
        "text_config.indexer_compress_ratio": 4,
    },
    "smolvlm": _FINE,
    "video_llama_3": _PATCHES,
    "video_llava": _SQUARE,
    "vipllava": {**_SQUARE, "vision_feature_layer": [-2, -1]},
}
"""What a family's configuration needs beside small sizes, by path."""


def make_network(family: str, processor: Any) -> Any:
    """A network that takes what `processor` gives, larger weights than usual so that tokens differ."""
    kind = CONFIG_MAPPING[family]
    small = _shrunk(kind().to_dict(), processor, TEXT)
    for path, value in FURTHER.get(family, {}).items():
        *outer, name = path.split(".")
        place = small
        for each in outer:
            place = place[each]
        place[name] = value
    torch.manual_seed(0)
    network = network_class(family)(kind.from_dict(small)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.15)
    return network


def _shrunk(values: dict[str, Any], processor: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """A configuration with small sizes, layer by layer settings cut to the layers that are left."""
    layers = values.get("num_hidden_layers") or values.get("depth")
    small: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = _shrunk(value, processor, TEXT if "text" in name else VISION)
        elif name == "vocab_size":
            small[name] = len(processor.tokenizer)
        elif name in ("image_token_id", "image_token_index"):
            small[name] = _image_id(processor)
        elif name in sizes and value is not None:
            small[name] = sizes[name]
        elif isinstance(value, list) and layers and len(value) == layers:
            small[name] = value[: sizes["num_hidden_layers"]]
        else:
            small[name] = value
    return small


def _image_id(processor: Any) -> int:
    """The token of an image's features: not always the one that a template writes."""
    for family, token in (("Ovis2", "<IMG_ATOM>"), ("Llama4", "<|patch|>")):
        if family in type(processor).__name__:
            return int(processor.tokenizer.convert_tokens_to_ids(token))
    if processor.image_token_id == getattr(processor.tokenizer, "boi_token_id", None):
        return int(processor.tokenizer.image_token_id)
    return int(processor.image_token_id)
