"""Small vision-language models with random weights, built offline: a save_pretrained folder per family.

`make_tiny_vlm("qwen3_vl", path)` writes model, tokenizer (bytes, no merges), image processor and chat template.
Decoders have 6 layers of width 32, images are a few patches, so a forward pass takes milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from raycurate.models.adapter import image_only_class

FAMILIES = ("llava", "smolvlm", "qwen2_vl", "qwen3_vl", "internvl")
NUM_LAYERS = 6
WIDTH = 32
# Settings of a pool that reads them: windows of several batches, few actors and loaders, as their start takes the time.
SMALL_POOL = {
    "window_rows": 16,
    "batch_tokens": 600,
    "batch_rows": 8,
    "dtype": "float32",
    "cpus_per_actor": 0.5,
    "cpus_per_loader": 1,
    "max_actors": 2,
}

_SPECIALS = {
    "llava": ["<image>"],
    "smolvlm": ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>"]
    + [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)],
    "qwen2_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"],
    "qwen3_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"],
    "internvl": ["<IMG_CONTEXT>", "<img>", "</img>", "<video>", "<|im_start|>", "<|im_end|>"],
}
_BLOCKS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for b in message['content'] %}"
    "{% if b['type'] == 'image' %}IMAGE{% else %}{{ b['text'] }}{% endif %}{% endfor %}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n" + _BLOCKS + "<|im_end|>\n{% endfor %}"
)
_TEMPLATES = {
    "llava": "{% for message in messages %}{{ message['role'] | upper }}: " + _BLOCKS + " {% endfor %}",
    "smolvlm": "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    + _BLOCKS
    + "<end_of_utterance>\n{% endfor %}",
    "qwen2_vl": _CHATML,
    "qwen3_vl": _CHATML,
    "internvl": _CHATML,
}
_PLACEHOLDERS = {
    "llava": "<image>",
    "smolvlm": "<image>",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "internvl": "<IMG_CONTEXT>",
}


def make_tokenizer(family: str) -> Any:
    """A byte tokenizer with the family's special tokens; LLaVA's adds BOS like Llama's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<s>", "</s>", *_SPECIALS[family]]
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if family == "llava":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    extra = {}
    if family == "internvl":
        extra = {
            "extra_special_tokens": {
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            }
        }
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **extra
    )
    fast.add_special_tokens({"additional_special_tokens": _SPECIALS[family]}, replace_extra_special_tokens=False)
    return fast


def make_processor(family: str, *, template: bool = True) -> Any:
    """The family's processor on the byte tokenizer."""
    tokenizer = make_tokenizer(family)
    chat = _TEMPLATES[family].replace("IMAGE", _PLACEHOLDERS[family]) if template else None
    if family == "llava":
        images = hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        return hf.LlavaProcessor(
            images,
            tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat,
        )
    if family == "smolvlm":
        images = hf.Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
        return hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat)
    if family == "internvl":
        images = hf.GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, max_patches=4, crop_to_patches=True)
        return image_only_class(hf.InternVLProcessor)(images, tokenizer, None, image_seq_length=4, chat_template=chat)
    cls = hf.Qwen2VLProcessor if family == "qwen2_vl" else hf.Qwen3VLProcessor
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, size={"shortest_edge": 14 * 14, "longest_edge": 42 * 42}
    )
    return image_only_class(cls)(images, tokenizer, None, chat_template=chat)


def make_config(family: str, tokenizer: Any, layers: int = NUM_LAYERS) -> Any:
    """The family's model config: decoder layers of width 32."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    if family == "llava":
        return hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**vision),
            text_config=hf.LlamaConfig(**text),
            image_token_id=token("<image>"),
            vision_feature_layer=-2,
            image_seq_length=4,
        )
    if family == "smolvlm":
        return hf.SmolVLMConfig(
            vision_config={**vision, "patch_size": 7},
            text_config={**text, "model_type": "llama"},
            image_token_id=token("<image>"),
            scale_factor=2,
        )
    if family == "internvl":
        return hf.InternVLConfig(
            vision_config={**vision, "patch_size": [7, 7], "image_size": [28, 28]},
            text_config={**text, "model_type": "qwen2"},
            image_token_id=token("<IMG_CONTEXT>"),
            image_seq_length=4,
            downsample_ratio=0.5,
        )
    ids = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    if family == "qwen2_vl":
        return hf.Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={
                "depth": 2,
                "embed_dim": 16,
                "hidden_size": WIDTH,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 7,
                "spatial_merge_size": 2,
            },
            **ids,
        )
    return hf.Qwen3VLConfig(
        text_config={**text, "head_dim": 8, "rope_parameters": {**rope, "mrope_interleaved": True}},
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "out_hidden_size": WIDTH,
            "num_heads": 2,
            "intermediate_size": 32,
            "patch_size": 7,
            "spatial_merge_size": 2,
            "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 64,
        },
        **ids,
    )


def make_model(family: str, processor: Any, seed: int = 0, layers: int = NUM_LAYERS) -> Any:
    """The family's model with random weights, larger than the usual initialisation so that tokens differ."""
    torch.manual_seed(seed)
    model = hf.AutoModelForImageTextToText.from_config(make_config(family, processor.tokenizer, layers))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.15)
    return model.eval()


def make_tiny_vlm(family: str, path: str | Path, *, template: bool = True, layers: int = NUM_LAYERS) -> Path:
    """Write a loadable folder for `family` (see FAMILIES) at `path` and return it."""
    folder = Path(path)
    processor = make_processor(family, template=template)
    make_model(family, processor, layers=layers).save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    parts = ("image_processor", "video_processor", "tokenizer")
    settings = {name: value for name, value in processor.to_dict().items() if name not in parts}
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if processor.chat_template is not None:
        (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    return folder
