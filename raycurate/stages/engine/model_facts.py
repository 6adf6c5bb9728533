"""What must be known of a model before a worker loads it: is it usable, how wide are its features, is it the same.

The network is built on the meta device (shapes without weights), so a 70B model is checked in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raycurate.config import ExtractConfig, ScoreConfig
from raycurate.models.source import model_fingerprint, resolve_model
from raycurate.run.store import Noun
from raycurate.stages.engine.foreseen import ModelSize, size_of


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the driver must know of a model, found without loading its weights."""

    fingerprint: str
    layers: tuple[int, ...]
    block_dim: int
    dimension: int
    dtype: str
    image_bytes: int = 0
    """Of a processed image, at most."""
    size: ModelSize | None = None
    """What its cost follows from."""


def _meta_vlm(model: str, trust_remote_code: bool) -> tuple[Any, str]:
    """The model on the meta device, checked to be usable, and its fingerprint."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from raycurate.encoding.probe import check_processor
    from raycurate.models.adapter import check_supported, load_processor, wrap_vlm

    source = resolve_model(model)
    processor = load_processor(model, trust_remote_code=trust_remote_code)
    model_config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    check_supported(model, model_config)
    check_processor(processor, model, model_config)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(model_config, trust_remote_code=trust_remote_code)
    return wrap_vlm(network, processor, name=model), model_fingerprint(source, model_config)


def _image_bytes(vlm: Any, dtype: str) -> int:
    import torch

    from raycurate.encoding.images import ImageReader

    return ImageReader(vlm.processor, getattr(torch, dtype.removeprefix("torch."))).largest_bytes()


def scoring_facts(config: ScoreConfig, on_gpu: bool, samples: Noun) -> ModelFacts:
    """What `score` must know of its model; runs as a task so that the driver stays light."""
    from raycurate.models.adapter import resolve_dtype

    vlm, fingerprint = _meta_vlm(config.model, config.trust_remote_code)
    dtype = str(resolve_dtype(config.dtype, "cuda" if on_gpu else "cpu"))
    layers = (vlm.num_layers - 1,)
    size = size_of(vlm.model.config, vlm.processor, config.model, samples, trust_remote_code=config.trust_remote_code)
    return ModelFacts(fingerprint, layers, vlm.hidden_size, vlm.hidden_size, dtype, _image_bytes(vlm, dtype), size)


def clip_model_facts(config: ScoreConfig, on_gpu: bool) -> tuple[ModelFacts, Any]:
    """The same of its CLIP model, and `features.clip.ClipFacts`."""
    from transformers import AutoConfig

    from raycurate.errors import UserError
    from raycurate.features.clip import clip_facts, load_clip_processor
    from raycurate.models.adapter import resolve_dtype

    assert config.clip is not None, "checked before"
    try:
        model_config = AutoConfig.from_pretrained(config.clip, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load the CLIP model '{config.clip}': {str(error).splitlines()[0]} Give --clip with a Hugging Face "
            "id that is cached or reachable, such as openai/clip-vit-large-patch14-336, or a local folder."
        ) from None
    found = clip_facts(config.clip, model_config)
    load_clip_processor(config.clip, trust_remote_code=config.trust_remote_code)
    dtype = str(resolve_dtype(config.dtype, "cuda" if on_gpu else "cpu"))
    fingerprint = model_fingerprint(config.clip, model_config)
    return ModelFacts(fingerprint, (), found.dimension, 2 * found.dimension, dtype), found


def model_facts(config: ExtractConfig, on_gpu: bool, samples: Noun) -> ModelFacts:
    """Check that the model can be used, on the meta device; runs as a task so that the driver stays light."""
    from raycurate.features.extractor import ActivationExtractor
    from raycurate.models.adapter import resolve_dtype

    vlm, fingerprint = _meta_vlm(config.model, config.trust_remote_code)
    layers = None if config.layers == "auto" else config.layers
    extractor = ActivationExtractor(vlm, layers, config.variant)
    dtype = str(resolve_dtype(config.dtype, "cuda" if on_gpu else "cpu"))
    return ModelFacts(
        fingerprint=fingerprint,
        layers=tuple(extractor.layers),
        block_dim=vlm.hidden_size,
        dimension=extractor.feature_dim,
        dtype=dtype,
        image_bytes=_image_bytes(vlm, dtype),
        size=size_of(
            vlm.model.config, vlm.processor, config.model, samples, trust_remote_code=config.trust_remote_code
        ),
    )
