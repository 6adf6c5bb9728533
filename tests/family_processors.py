"""A processor for every family of transformers that can be built without a network: its own code, a byte tokenizer.

The special tokens that a family's processor looks for are read from its source, its image processor has its defaults,
and one plain chat template serves all. Nothing is known here of any family but where its constructor needs a number.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from raycurate.models.adapter import image_only_class

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for b in m['content'] %}{% if b['type'] == 'image' %}(IMAGE){% else %}{{ b['text'] }}{% endif %}{% endfor %}"
    "{% endif %}</s>\n{% endfor %}"
)
NUMBERS = {"image_seq_length": 16, "image_seq_len": 4, "patch_size": 14, "num_image_tokens": 16}
_SQUARE = {"size": {"height": 28, "width": 28}}
_TILES = {**_SQUARE, "crop_to_patches": True, "max_patches": 4}
_CROP = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
_PINPOINTS = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
_PATCHES = {"patch_size": 14, "size": {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}}
_CLIP = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
SMALL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "aria": ({}, {"size_conversion": {490: 4, 980: 4}}),
    "aya_vision": (_TILES, {"img_size": 28, "patch_size": 14}),
    "cohere2_vision": ({**_TILES, "patch_size": 2}, {}),
    "cosmos3_edge": ({"size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}}, {}),
    "deepseek_vl": (_SQUARE, {"num_image_tokens": 4}),
    "deepseek_vl_hybrid": ({**_SQUARE, "high_res_size": {"height": 64, "width": 64}}, {"num_image_tokens": 4}),
    "dots3_note": ({**_PATCHES, "temporal_patch_size": 1}, {}),
    "gemma3": (_SQUARE, {"image_seq_length": 4}),
    "gemma3n": ({"size": {"height": 64, "width": 64}}, {"image_seq_length": 4}),
    "gemma4": ({"max_soft_tokens": 70}, {}),
    "glm5_next": ({"min_image_tokens": 4, "max_image_tokens": 9}, {}),
    "granite4_vision": ({**_CROP, **_PINPOINTS}, {**_CLIP, "downsample_rate": "1/2"}),
    "granite_docling": ({"size": {"height": 56, "width": 56}, "max_patches": 4}, {"image_seq_len": 4}),
    "idefics3": ({"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}, {"image_seq_len": 4}),
    "internvl": (_TILES, {"image_seq_length": 4}),
    "lighton_ocr": ({"patch_size": {"height": 14, "width": 14}, "size": {"longest_edge": 84}}, {"patch_size": 14}),
    "llama4": ({"size": {"height": 56, "width": 56}, "max_patches": 4}, {"patch_size": 14}),
    "llava": (_CROP, _CLIP),
    "llava_next": ({**_CROP, **_PINPOINTS}, _CLIP),
    "llava_next_video": ({**_CROP, **_PINPOINTS}, _CLIP),
    "llava_onevision": ({**_SQUARE, **_PINPOINTS}, {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}),
    "mistral3": (
        {"patch_size": {"height": 14, "width": 14}, "size": {"longest_edge": 84}},
        {"patch_size": 14, "spatial_merge_size": 2},
    ),
    "ovis2": (_TILES, {"image_seq_length": 4}),
    "smolvlm": ({"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}, {"image_seq_len": 4}),
    "vipllava": (_CROP, _CLIP),
    "video_llava": (_CROP, {}),
    **dict.fromkeys(
        ("cohere_compass", "exaone4_5", "hyperclovax_vision_v2", "qwen2_5_vl", "qwen2_vl")
        + ("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen4_exp", "glm46v", "glm4v", "paddleocr_vl", "video_llama_3")
        + ("lfm3_vl",),
        (_PATCHES, {}),
    ),
}
"""Settings of the image processor and of the processor that make few tokens of an image."""
AS = {"qwen3_vl_moe": "qwen3_vl", "glm4v_moe": "glm4v", "glm_ocr": "glm46v"}
"""Families whose checkpoints have the processor of another."""
FURTHER_TOKENS = {"gemma4": {"audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>"}}


def make_processor(family: str, *, small: bool = True, **settings: Any) -> Any:
    """The processor of a family, by its model type; `settings` are arguments of its constructor."""
    family = AS.get(family, family)
    kind = getattr(hf, PROCESSOR_MAPPING_NAMES[family])
    image_settings, own_settings = SMALL.get(family, ({}, {})) if small else ({}, {})
    values: dict[str, Any] = {}
    for each in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if each.name == "image_processor":
            values["image_processor"] = _image_processor(family, image_settings)
        elif each.name == "tokenizer":
            values["tokenizer"] = _tokenizer(family, Path(inspect.getsourcefile(kind) or "").read_text("utf-8"))
        elif each.name in ("video_processor", "feature_extractor", "audio_processor"):
            is_asked = family == "smolvlm" and each.name == "video_processor"  # by its chat template, for its settings
            values[each.name] = hf.SmolVLMVideoProcessor() if is_asked else None
        elif each.name in NUMBERS and each.default in (None, each.empty):
            values[each.name] = NUMBERS[each.name]
        elif each.name == "vision_feature_select_strategy":
            values[each.name] = each.default or "default"
    processor = image_only_class(kind)(**{**values, **own_settings, **settings})
    if getattr(processor, "image_token", None) is not None:
        processor.chat_template = CHAT.replace("IMAGE", processor.image_token)
    return processor


def network_class(family: str) -> Any:
    """The class of a family's models."""
    return getattr(hf, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family])


def _image_processor(family: str, settings: dict[str, Any]) -> Any:
    names = IMAGE_PROCESSOR_MAPPING_NAMES[family]
    name = (names.get("pil") or names["torchvision"]) if isinstance(names, dict) else names
    made = getattr(hf, name if isinstance(name, str) else next(filter(None, reversed(name))))(**settings)
    if family == "paligemma":
        made.image_seq_length = 16
    return made


def _tokenizer(family: str, source: str) -> Any:
    quoted = re.findall(r'["\'](<[^"\'\s<>{}]{1,40}>|\[[A-Z_]+\]|<\|[^"\'\s{}]+\|>)["\']', source)
    extra = dict(FURTHER_TOKENS.get(family, {}))
    for name in sorted(set(re.findall(r"tokenizer\.(\w+_token)\b", source))):
        if name not in ("pad_token", "bos_token", "eos_token", "unk_token") and not name.startswith("add_"):
            usual = {"image_token": "<image>", "video_token": "<video>", "audio_token": "<audio>"}
            extra.setdefault(name, usual.get(name, f"<{name}>"))
    specials = sorted({*quoted, *extra.values()})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=extra
    )
    fast.add_special_tokens({"additional_special_tokens": specials}, replace_extra_special_tokens=False)
    return fast
