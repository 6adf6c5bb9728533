"""A CLIP model with random weights, built offline: a save_pretrained folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as hf

from tests.tiny_vlms import make_tokenizer


def make_tiny_clip(path: str | Path, *, kind: str = "clip") -> Path:
    """Write a loadable folder of a tiny `clip` or `siglip` and return it."""
    folder = Path(path)
    tokenizer = make_tokenizer("llava")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {**size, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    vision = {**size, "image_size": 28, "patch_size": 14}
    if kind == "clip":
        config = hf.CLIPConfig(text_config={**text, "projection_dim": 16}, vision_config=vision, projection_dim=16)
        images = hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    else:
        config = hf.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision)
        images = hf.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    name = "CLIPProcessor" if kind == "clip" else "SiglipProcessor"
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": name}), encoding="utf-8")
    return folder
