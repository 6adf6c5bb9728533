"""What must be known of a model before a worker loads it: is it usable, how wide are its features, is it the same.

The network is built on the meta device (shapes without weights), so a 70B model is checked in seconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycurate.config import ExtractConfig

SMALL_FILE = 64 << 20


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the driver must know of a model, found without loading its weights."""

    fingerprint: str
    layers: tuple[int, ...]
    block_dim: int
    dimension: int
    dtype: str


def model_facts(config: ExtractConfig, on_gpu: bool) -> ModelFacts:
    """Check that the model can be used, on the meta device; runs as a task so that the driver stays light."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from raycurate.features.extractor import ActivationExtractor
    from raycurate.models.adapter import check_supported, load_processor, resolve_dtype, resolve_model, wrap_vlm

    source = resolve_model(config.model)
    processor = load_processor(config.model, trust_remote_code=config.trust_remote_code)
    model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    check_supported(config.model, model_config)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(model_config, trust_remote_code=config.trust_remote_code)
    vlm = wrap_vlm(network, processor, name=config.model)
    layers = None if config.layers == "auto" else config.layers
    extractor = ActivationExtractor(vlm, layers, config.variant)
    return ModelFacts(
        fingerprint=model_fingerprint(source, model_config),
        layers=tuple(extractor.layers),
        block_dim=vlm.hidden_size,
        dimension=extractor.feature_dim,
        dtype=str(resolve_dtype(config.dtype, "cuda" if on_gpu else "cpu")),
    )


def model_fingerprint(source: str, model_config: Any) -> str:
    """A hash of a local folder's files (small ones whole, large ones by size and ends), or the hub's commit."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{getattr(model_config, '_commit_hash', None)}"
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".jinja")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(SMALL_FILE))
            if size > SMALL_FILE:
                stream.seek(max(SMALL_FILE, size - SMALL_FILE))
                digest.update(stream.read(SMALL_FILE))
    return digest.hexdigest()
