"""The network to train: loaded, frozen where it should be, with LoRA on its decoder; saved, merged, reloaded.

Modules are found from the model itself: the decoder by `get_decoder()`, the projector by the names that its families
use below the model's vision side. LoRA goes on every plain linear layer of the decoder's layers but what only chooses,
by a regular expression on their full paths (vision towers own modules of the same names); `lm_head` and
embeddings stay as they are. The projector
is trained fully, in LoRA's `modules_to_save`. In full finetuning decoder, embeddings, `lm_head` and projector are
trained, in the projector's own training it alone. The vision tower is frozen unless asked otherwise.

A merged model is W + (alpha / rank) B A in float32, cast back to the model's dtype once, and is written with the
processor's files, so that `AutoModelForImageTextToText` and `AutoProcessor` load it without peft or raycurate.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycurate.errors import UserError
from raycurate.models.adapter import check_supported, load_weights
from raycurate.models.source import resolve_model

_PROJECTOR_NAMES = (
    "multi_modal_projector",
    "connector",
    "merger",
    "deepstack_merger_list",
    "embed_vision",
    "vision_projection",
    "vision_proj",
    "mm_projector",
    "aligner",
    "mlp1",
    "projector",
    "visual_embeddings_table",
    "layerwise_projectors",
    "spatial_projectors",
)
_CHOOSES = re.compile(r".*\.([^.]*_)?(gate|router)|.*\.indexer\..*")
_PROCESSOR_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*processor_config.json",
    "chat_template*",
)


def load_network(model: str, *, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A vision-language model on the CPU; under a ZeRO-3 config transformers shards it while loading.

    Raises:
        UserError: the model cannot be loaded, or its images do not enter the decoder as tokens.
    """
    from transformers import AutoConfig

    source = resolve_model(model)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        check_supported(model, config)
        network = load_weights(source, dtype=dtype, trust_remote_code=trust_remote_code)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot load the model '{model}': {first_line} Give a folder written by save_pretrained, a Hugging Face "
            "model id that is cached or reachable, or 'tiny'."
        ) from error
    for each in (network.config, network.get_decoder().config):
        each.use_cache = False
    return network


def decoder_layers_path(network: Any) -> str:
    """The path of the text decoder's list of layers, such as `model.language_model.layers`."""
    decoder = network.get_decoder()
    if not hasattr(decoder, "layers") and hasattr(decoder, "model"):
        decoder = decoder.model
    layers = getattr(decoder, "layers", None)
    for path, module in network.named_modules():
        if module is layers:
            return path
    raise UserError(f"{type(network).__name__}: its decoder {type(decoder).__name__} has no list of layers to train.")


def projector_paths(network: Any, given: Sequence[str] | None = None) -> list[str]:
    """The paths of the modules between vision and text.

    Raises:
        UserError: a given path that does not exist, or none given and none of the known names found.
    """
    modules = dict(network.named_modules())
    if given is not None:
        for path in given:
            if path not in modules:
                raise UserError(f"projector '{path}' is no module of {type(network).__name__}. {_outline(modules)}")
        return _callable_modules(modules, given)
    decoder = decoder_layers_path(network).removesuffix(".layers")
    found = [
        path for path in modules if path.rsplit(".", 1)[-1] in _PROJECTOR_NAMES and not path.startswith(f"{decoder}.")
    ]
    outer = [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
    if not outer:
        raise UserError(
            f"no projector was found in {type(network).__name__}. Name it with `projector`. {_outline(modules)}"
        )
    return _callable_modules(modules, outer)


def _callable_modules(modules: dict[str, nn.Module], paths: Sequence[str]) -> list[str]:
    """The paths, a list of modules replaced by its members: a list has no forward for peft to wrap."""
    expanded: list[str] = []
    for path in paths:
        module = modules[path]
        expanded += [f"{path}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [path]
    return expanded


def _outline(modules: dict[str, nn.Module]) -> str:
    return "Its outer modules: " + ", ".join(path for path in modules if path and path.count(".") < 3)[:600]


def lora_targets(network: Any) -> str:
    """A regular expression of the full paths of the linear layers in the decoder's layers that LoRA goes on.

    Left out: kinds of linear layer with a forward pass of their own, which may return more than a tensor (Llama 4's
    router), and what chooses between experts or which tokens are attended to: such a choice has no gradient.
    """
    prefix = decoder_layers_path(network)
    suffixes = sorted(
        {
            path.removeprefix(f"{prefix}.").split(".", 1)[1]
            for path, module in network.named_modules()
            if path.startswith(f"{prefix}.") and _is_plain(module) and not _CHOOSES.fullmatch(path)
        }
    )
    if not suffixes:
        raise UserError(f"{type(network).__name__}: no linear layers in {prefix} to put LoRA on.")
    return rf"{re.escape(prefix)}\.\d+\.(?:{'|'.join(map(re.escape, suffixes))})"


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def add_lora(
    network: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    saved_modules: Sequence[str],
    float32: bool = True,
) -> Any:
    """A peft model: LoRA on the decoder, `saved_modules` trained fully, everything else frozen.

    LoRA's weights are float32, or the model's type where `float32` is off: ZeRO keeps float32 copies itself, and
    ZeRO-3 takes trained weights of one type only.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number: it is divided by the rank
        lora_dropout=dropout,
        bias="none",
        target_modules=lora_targets(network),
        modules_to_save=list(saved_modules) or None,
    )
    return get_peft_model(network, config, autocast_adapter_dtype=float32)


def freeze(
    network: Any,
    *,
    projector: Sequence[str],
    train_projector: bool,
    train_vision: bool,
    train_decoder: bool = True,
) -> None:
    """Training without LoRA: leave the gradients on for what is to be trained only."""
    decoder = decoder_layers_path(network).removesuffix(".layers")
    head = network.get_output_embeddings()
    text = {id(p) for module in (network.get_submodule(decoder), head) if module for p in module.parameters()}
    for name, parameter in network.named_parameters():
        in_projector = any(name.startswith(f"{path}.") for path in projector)
        if id(parameter) in text:
            parameter.requires_grad_(train_decoder)
        else:
            parameter.requires_grad_(train_projector if in_projector else train_vision)


def count_parameters(network: Any) -> tuple[int, int]:
    """Trained and all parameters; sharded ones by their true size."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in network.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def save_processor(model: str, processor: Any, folder: str | Path) -> None:
    """The processor's files beside a saved model: copied from a local model, else written."""
    source, target = Path(resolve_model(model)), Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if not source.is_dir():
        processor.save_pretrained(target)
        return
    for pattern in _PROCESSOR_FILES:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def merged_network(network: Any, adapter: str | Path) -> Any:
    """`network` with the LoRA of the folder `adapter` merged into its weights, where they lie and in their type.

    A layer is added up in float32 and cast once: more than one layer in float32 is never held.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    dtype = network.dtype
    adapted = PeftModel.from_pretrained(network, str(adapter))
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            weight = module.get_base_layer().weight
            weight.data = weight.data.float()
            module.merge()
            weight.data = weight.data.to(dtype)
        elif isinstance(module, ModulesToSaveWrapper):
            module.to(dtype)  # not the whole network: its rotary tables stay in float32
    return adapted.unload().eval()


def merge_adapter(model: str, adapter: str | Path, folder: str | Path, *, trust_remote_code: bool = False) -> None:
    """Write the base model `model` with the LoRA of `adapter` merged in, and its processor, to `folder`."""
    from peft import PeftModel
    from transformers import AutoConfig

    from raycurate.models.adapter import load_processor

    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=trust_remote_code)
    network = load_network(model, dtype=torch.float32, trust_remote_code=trust_remote_code)
    merged = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
    merged.to(getattr(config, "dtype", None) or torch.float32)
    for each in (merged.config, merged.get_decoder().config):
        each.use_cache = True
    merged.save_pretrained(folder)
    save_processor(model, load_processor(model, trust_remote_code=trust_remote_code), folder)
