"""One adapter over transformers' image-text-to-text models: load, locate the decoder, refuse what cannot be hooked.

The feature extractor needs from a model: its processor, its text decoder's list of layers, each wanted layer's
attention output projection (`self_attn.o_proj` or `self_attn.out_proj`) or MLP, and the id of its image placeholder
token. Modules are reached from `model.get_decoder()`, never by a name suffix: vision towers own modules of the same
names.

Refused, with the reason: models whose image enters through cross-attention or query tokens (Mllama, BLIP-2, Florence-2:
there are no visual tokens in the decoder to average over), a wanted layer without self-attention (hybrid decoders such
as Qwen3.5 have some; `auto` takes others), and models without an image token id.

Nothing is downloaded for the name "tiny": it is a folder of this package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycurate.errors import UserError
from raycurate.models.source import resolve_model

# Image content reaches these decoders outside the token sequence, so no position of it is a visual token.
_CROSS_ATTENTION_TYPES = frozenset(
    {
        "mllama",
        "blip",
        "blip-2",
        "instructblip",
        "instructblipvideo",
        "florence2",
        "git",
        "idefics",
        "kosmos-2",
        "kosmos-2.5",
        "evolla",
        "pix2struct",
        "udop",
        "vision-encoder-decoder",
    }
)
# Every token attends to earlier tokens only: with padding on the right no mask is needed for real tokens.
_CAUSAL_TYPES = frozenset({"llava", "smolvlm", "idefics3", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
# Their forward takes `mm_encoder_outputs` and reads only pooler_output and deepstack_features of it.
_SHARING_TYPES = _CAUSAL_TYPES


@dataclass(frozen=True, eq=False)
class VLM:
    """A loaded model with the places that the extractor needs.

    `layers` are the text decoder's layers in order, `causal` says that right padding needs no attention mask,
    `shares_images` that encoder outputs of an image may be handed to several rows.
    """

    name: str
    model: Any
    processor: Any
    layers: Sequence[nn.Module]
    image_token_id: int
    hidden_size: int
    num_layers: int
    model_type: str
    device: torch.device
    dtype: torch.dtype
    causal: bool
    shares_images: bool

    @property
    def attention_layers(self) -> list[int]:
        """The layers with self-attention: all of most decoders, some of hybrid ones."""
        return [i for i, each in enumerate(self.layers) if hasattr(each, "self_attn")]

    def attention_output(self, layer: int) -> nn.Module:
        """The attention output projection of decoder layer `layer` (0-based).

        Raises:
            UserError: the layer has no self-attention with an output projection, or does not exist.
        """
        block = self.layer(layer)
        attention = getattr(block, "self_attn", None)
        for name in ("o_proj", "out_proj"):
            projection = getattr(attention, name, None)
            if isinstance(projection, nn.Module):
                return projection
        usable = self.attention_layers
        raise UserError(
            f"layer {layer} of {self.name} ({self.model_type}) has no self-attention output projection: "
            f"this is a hybrid or cross-attention decoder. Layers with self-attention: {usable or 'none'}. "
            "Choose layers among those, or another model."
        )

    def feed_forward(self, layer: int) -> nn.Module:
        """The MLP of decoder layer `layer` (0-based); `UserError` where there is none."""
        block = self.layer(layer)
        for name in ("mlp", "feed_forward"):
            module = getattr(block, name, None)
            if isinstance(module, nn.Module):
                return module
        raise UserError(
            f"layer {layer} of {self.name} ({self.model_type}) has no 'mlp' or 'feed_forward' module; "
            "use the variant 'attn' instead of 'ffn'."
        )

    def layer(self, layer: int) -> nn.Module:
        """Decoder layer `layer` (0-based); `UserError` outside 0..num_layers-1."""
        if not 0 <= layer < self.num_layers:
            raise UserError(
                f"layer {layer} does not exist: {self.name} has {self.num_layers} decoder layers, "
                f"0 to {self.num_layers - 1}. Suggested: {auto_layers(self.num_layers)}."
            )
        return self.layers[layer]


def auto_layers(num_layers: int) -> tuple[int, ...]:
    """Five layers, 0-based, evenly from 1/6 to 5/6 of the depth; fewer, without repeats, for shallow models.

    24 layers give (3, 7, 11, 15, 19), the published choice (the 4th, 8th, ... 20th layer).
    """
    if num_layers < 1:
        raise UserError(f"num_layers is {num_layers}; a decoder has at least 1 layer.")
    # floor(n*k/6 + 1/2) is the 1-based layer, in integers so that no depth depends on float rounding.
    return tuple(sorted({max((2 * num_layers * k + 6) // 12 - 1, 0) for k in range(1, 6)}))


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and on CPUs with bf16 units (AMX or AVX512-BF16), else float32."""
    named = {
        "bfloat16": torch.bfloat16,
        "bf16": torch.bfloat16,
        "float16": torch.float16,
        "fp16": torch.float16,
        "float32": torch.float32,
        "fp32": torch.float32,
    }
    if dtype in named:
        return named[dtype]
    if dtype != "auto":
        raise UserError(f"unknown dtype '{dtype}'. Available: auto, {', '.join(named)}.")
    if torch.device(device).type == "cpu":
        return torch.bfloat16 if _cpu_has_bf16() else torch.float32
    return torch.bfloat16


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _load_image_only(source: str, trust_remote_code: bool) -> Any:
    """A processor without its video half, for machines without torchvision.

    Several processors bundle a video processor that cannot be built without torchvision; this product reads
    images only, so its absence must not forbid the model.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    processor_class = image_only_class(PROCESSOR_MAPPING[type(config)])
    parts = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
    arguments = [
        parts[name].from_pretrained(source, trust_remote_code=trust_remote_code) if name in parts else None
        for name in processor_class.get_attributes()
    ]
    settings, _ = processor_class.get_processor_dict(source)
    return processor_class.from_args_and_dict(arguments, settings)


def image_only_class(processor_class: Any) -> Any:
    """A processor class whose video half may be None."""

    def check_argument_for_proper_class(self: Any, argument_name: str, argument: Any) -> Any:
        if argument is None:
            return None
        return processor_class.check_argument_for_proper_class(self, argument_name, argument)

    overrides = {"check_argument_for_proper_class": check_argument_for_proper_class}
    return type(processor_class.__name__, (processor_class,), overrides)


def load_processor(model: str, *, trust_remote_code: bool = False) -> Any:
    """The processor (tokenizer, image processor, chat template) alone, for the loading side.

    Raises:
        UserError: nothing there, or no image processor and tokenizer in it.
    """
    from transformers import AutoProcessor

    source = resolve_model(model)
    try:
        try:
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
        except (ImportError, ValueError) as error:
            if "torchvision" not in str(error).lower() or importlib.util.find_spec("torchvision") is not None:
                raise
            processor = _load_image_only(source, trust_remote_code)
    except ImportError as error:
        raise UserError(f"the processor of {model} needs a package that is missing: {error}") from error
    except (OSError, ValueError) as error:
        raise UserError(_not_loadable("processor", model, error)) from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise UserError(
            f"{model} has no processor with a tokenizer and an image processor (found {type(processor).__name__}); "
            "choose a vision-language model."
        )
    return processor


def _not_loadable(what: str, model: str, error: Exception) -> str:
    """The message for a model that transformers cannot load."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot load the {what} of '{model}': {first_line} "
        "Give a folder written by save_pretrained, a Hugging Face model id that is cached or reachable, or 'tiny'."
    )


def load_vlm(
    model: str, *, device: str, dtype: str = "auto", trust_remote_code: bool = False, attention: str = "sdpa"
) -> VLM:
    """Load a vision-language model for feature extraction.

    Args:
        model: hub id, local folder, or "tiny" for the embedded model.
        device: torch device, such as "cpu" or "cuda:0".
        dtype: "auto", "bfloat16", "float16" or "float32".
        trust_remote_code: run code that the model's repository ships; only for repositories that you have read.
        attention: "sdpa", torch's fused one, or "eager", which hands its weights out.

    Raises:
        UserError: the model cannot be loaded, or is of a kind that cannot be hooked.
    """
    from transformers import AutoConfig

    source = resolve_model(model)
    resolved = resolve_dtype(dtype, device)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        check_supported(model, config)
        network = load_weights(
            source, dtype=resolved, trust_remote_code=trust_remote_code, device=device, attention=attention
        )
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(_not_loadable("model", model, error)) from error
    processor = load_processor(model, trust_remote_code=trust_remote_code)
    return wrap_vlm(network.to(device).eval(), processor, name=model)


def load_weights(
    source: str, *, dtype: torch.dtype, trust_remote_code: bool, device: str | None = None, attention: str = "sdpa"
) -> Any:
    """The network at `source`, with this kind of attention, or the plain one where its decoder has no other.

    With `device` the weights go there file by file: eight actors of a node do not hold eight models in its memory.
    """
    from transformers import AutoModelForImageTextToText

    settings: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if device is not None:
        settings["device_map"] = {"": device}
    try:
        return AutoModelForImageTextToText.from_pretrained(source, attn_implementation=attention, **settings)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error) and "attn_implementation" not in str(error):
            raise
    return AutoModelForImageTextToText.from_pretrained(source, attn_implementation="eager", **settings)


def check_supported(name: str, config: Any) -> None:
    """Refuse a model that has no visual tokens in its decoder, judged by its config; raises `UserError`."""
    if config.model_type in _CROSS_ATTENTION_TYPES or getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{name} ({config.model_type}) feeds the image through cross-attention or query tokens, so its decoder "
            "has no visual tokens to take features from. Choose a model that splices image tokens into the text, "
            "such as LLaVA, SmolVLM, Qwen-VL or InternVL."
        )
    if getattr(config, "image_token_id", None) is None:
        raise UserError(
            f"{name} ({config.model_type}) has no image_token_id in its config, so visual tokens cannot be told from "
            "text. Choose a model that splices image tokens into the text."
        )


def wrap_vlm(network: Any, processor: Any, *, name: str) -> VLM:
    """Bundle a transformers model and its processor; raises `UserError` for a kind that cannot be hooked."""
    check_supported(name, network.config)
    decoder = network.get_decoder()
    if not hasattr(decoder, "layers") and hasattr(decoder, "model"):
        decoder = decoder.model  # Llama 4 hands out its causal LM here
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise UserError(f"{name} ({network.config.model_type}): its decoder {type(decoder).__name__} has no layers.")
    if any(hasattr(layer, "cross_attn") for layer in layers):
        raise UserError(
            f"{name} ({network.config.model_type}) mixes cross-attention layers into its decoder; its image is not "
            "in the token sequence. Choose a model that splices image tokens into the text."
        )
    for config in (network.config, decoder.config):
        config.use_cache = False  # one pass per batch: keys and values would only fill memory
    model_type = network.config.model_type
    weight = next(network.parameters())
    return VLM(
        name=name,
        model=network,
        processor=processor,
        layers=layers,
        image_token_id=int(network.config.image_token_id),
        hidden_size=int(decoder.config.hidden_size),
        num_layers=len(layers),
        model_type=model_type,
        device=weight.device,
        dtype=weight.dtype,
        causal=model_type in _CAUSAL_TYPES,
        shares_images=model_type in _SHARING_TYPES,
    )
