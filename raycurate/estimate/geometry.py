"""The sizes of a model that its cost follows from, read off its configuration: no weight is loaded or fetched.

The network is built on the meta device, where a tensor has a shape and no memory, and its matrices are counted. So the
count is that of transformers' own code, whichever the family: gated or not, with fewer keys than queries, with experts.

    decoder, t tokens that see c:   2 t w + 4 t c q      w = weights of the layers passed, q = width of the queries
    vision tower, p patches:        2 p w + 4 p^2 q      per tile, or per image where it attends to all of it
    training:  forward 2, backward 2 for activations, 2 more where weights are trained, 2 more where it is recomputed

Attention is counted over the whole square of tokens, as profilers do; kernels that skip the upper half do less.
Cost: seconds for a 7B model, most of it the import of transformers. Limits: a tower of windows is counted as if every
patch attended to all patches of its image; resamplers count as if they saw visual tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycurate.errors import UserError
from raycurate.estimate.published import PUBLISHED

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the formulas know of a model. Weights are counts of numbers in matrices that one token goes through.

    Attributes:
        model: its name.
        layers: of the decoder.
        width: of the decoder's hidden states.
        inner: width inside of its MLP, of all experts that a token goes to.
        query_width: heads times numbers of each.
        kv_width: numbers that a token keeps in one layer's cache, keys and values.
        attention_weights: of one layer's attention.
        layer_weights: of one whole layer; of experts those that a token goes to.
        head_weights: of the output embedding.
        vision_blocks: of the image tower.
        vision_width: of its hidden states.
        vision_block_weights: of one of its blocks.
        patch_weights: of the patch embedding.
        projector_weights: between tower and decoder, per visual token.
        decoder_parameters: all numbers of the decoder with its embeddings.
        vision_parameters: all others.
    """

    model: str
    layers: int
    width: int
    inner: float
    query_width: int
    kv_width: int
    attention_weights: float
    layer_weights: float
    head_weights: int
    vision_blocks: int
    vision_width: int
    vision_block_weights: float
    patch_weights: int
    projector_weights: int
    decoder_parameters: int
    vision_parameters: int

    @property
    def parameters(self) -> int:
        """All numbers of the model."""
        return self.decoder_parameters + self.vision_parameters

    def decoder_flop(
        self, tokens: float, square: float | None = None, *, stop: int | None = None, mlp_of_last: bool = True
    ) -> float:
        """FLOP of a row of `tokens` through the decoder.

        Args:
            tokens: of the row, images expanded; or a mean over rows.
            square: mean of their squares; default: the square of `tokens`.
            stop: 0-based layer after which the pass ends; None: all layers.
            mlp_of_last: whether that layer's MLP is run as well.
        """
        passed = self.layers if stop is None else stop + 1
        weights = passed * self.layer_weights
        if not mlp_of_last:
            weights -= self.layer_weights - self.attention_weights
        seen = tokens * tokens if square is None else square
        return 2 * tokens * weights + 4 * seen * self.query_width * passed

    def vision_flop(self, patches: float, visual_tokens: float, tiles: float = 1.0) -> float:
        """FLOP of an image of `patches` patches in `tiles` tiles that gives `visual_tokens` tokens."""
        blocks = 2 * patches * self.vision_block_weights + 4 * patches * patches / max(tiles, 1.0) * self.vision_width
        return (
            self.vision_blocks * blocks + 2 * patches * self.patch_weights + 2 * visual_tokens * self.projector_weights
        )

    def head_flop(self, tokens: float) -> float:
        """FLOP of the output embedding."""
        return 2 * tokens * self.head_weights

    def training_flop(
        self, tokens: float, square: float, answer_tokens: float, *, method: str, recomputed: bool
    ) -> float:
        """FLOP of one row's forward and backward pass through the decoder; the frozen tower is `vision_flop`.

        Args:
            tokens: of the row, images expanded.
            square: mean of their squares.
            answer_tokens: that have a loss, for which alone the head is run.
            method: full, lora, or projector.
            recomputed: activations are made a second time (gradient checkpointing).
        """
        passes = 2.0 + (method == "full") + recomputed
        trained = 2.0 + (method == "full")
        return passes * self.decoder_flop(tokens, square) + trained * self.head_flop(answer_tokens)

    def trained(self, method: str, lora_rank: int) -> float:
        """Numbers that are trained: all of the decoder, low-rank pairs beside its matrices, or the projector alone."""
        if method == "full":
            return float(self.decoder_parameters + self.projector_weights)
        if method == "projector":
            return float(self.projector_weights)
        # A pair beside a matrix of a x b has r (a + b) numbers: seven matrices of a layer, sizes as of a Llama.
        per_layer = 2 * (self.width + self.query_width) + 2 * self.width + self.kv_width + 3 * (self.width + self.inner)
        return float(self.projector_weights) + lora_rank * self.layers * per_layer

    def row_traffic(self, tokens: float, layers: int, number_bytes: int) -> float:
        """Bytes that one row's activations move in `layers` decoder layers: what small models are slow by."""
        return tokens * layers * number_bytes * (16.0 * self.width + 5.0 * self.inner)

    def vision_traffic(self, patches: float, number_bytes: int) -> float:
        """The same of an image in the tower, whose MLP is taken four times as wide as its states."""
        return patches * self.vision_blocks * number_bytes * 30.0 * self.vision_width


def read_geometry(model: str, *, trust_remote_code: bool = False) -> tuple[Geometry, Any, str]:
    """A model's geometry and configuration, and a note where the configuration is not the model's own file.

    Raises:
        UserError: no configuration can be read here, and the model is none of those known by name.
    """
    from transformers import AutoConfig

    from raycurate.models.source import resolve_model

    source, note = resolve_model(model), ""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        if model not in PUBLISHED:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the configuration of '{model}' cannot be read here: {reason} Give a folder that holds config.json, "
                f"a model that is in the cache, 'tiny', or one that is known by name: {', '.join(PUBLISHED)}"
            ) from None
        config = _published(PUBLISHED[model])
        note = f"{model}: its configuration is not here; sizes as published"
    return geometry_of(meta_network(config, trust_remote_code=trust_remote_code), model), config, note


def _published(values: dict[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def meta_network(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The network of a configuration without memory for its weights. Raises `UserError` for one of another kind."""
    import torch
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise UserError(
            f"a model of type '{config.model_type}' reads no images and text: {str(error).splitlines()[0]}"
        ) from None


def geometry_of(network: Any, name: str) -> Geometry:
    """The geometry of a built network, on the meta device or not."""
    text = network.config.get_text_config()
    decoder = network.get_decoder()
    layers = list(decoder.layers)
    share = _active_share(text)
    weights = [matrix_weights(layer, share) for layer in layers]
    attention = [matrix_weights(layer.self_attn, 1.0) for layer in layers if hasattr(layer, "self_attn")]
    head = network.get_output_embeddings()
    head_weights = head.weight.numel() if head is not None else text.vocab_size * text.hidden_size
    own = {id(parameter) for parameter in decoder.parameters()}
    if head is not None:
        own |= {id(parameter) for parameter in head.parameters()}
    total = sum(parameter.numel() for parameter in network.parameters())
    decoder_parameters = sum(p.numel() for p in network.parameters() if id(p) in own)
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    attention_mean = sum(attention) / max(len(attention), 1)
    mean = sum(weights) / len(weights)
    return Geometry(
        model=name,
        layers=len(layers),
        width=text.hidden_size,
        inner=(mean - attention_mean) / (3 * text.hidden_size),
        query_width=heads * head_dim,
        kv_width=2 * kv_heads * head_dim,
        attention_weights=attention_mean,
        layer_weights=mean,
        head_weights=head_weights,
        decoder_parameters=decoder_parameters,
        vision_parameters=total - decoder_parameters,
        **_vision(network, decoder, head),
    )


def _vision(network: Any, decoder: Any, head: Any) -> dict[str, Any]:
    """What is neither decoder nor head: blocks with attention are the tower, convolutions its patches."""
    from torch import nn

    blocks = [block for stack in stacks(network, decoder) for block in stack]
    inside = {id(module) for block in blocks for module in block.modules()}
    skipped = {id(module) for part in (decoder, head) if part is not None for module in part.modules()}
    patches = projector = 0
    for module in network.modules():
        if id(module) in inside or id(module) in skipped:
            continue
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            patches += module.weight.numel()
        elif isinstance(module, nn.Linear):
            projector += module.weight.numel()
    width = next((m.in_features for m in blocks[0].modules() if isinstance(m, nn.Linear)), 0) if blocks else 0
    weights = [matrix_weights(block, 1.0) for block in blocks]
    return {
        "vision_blocks": len(blocks),
        "vision_width": width,
        "vision_block_weights": sum(weights) / max(len(weights), 1),
        "patch_weights": patches,
        "projector_weights": projector,
    }


def stacks(network: Any, decoder: Any | None = None) -> Iterator[nn.ModuleList]:
    """The lists of blocks with attention, outside of the decoder where there is one."""
    from torch import nn

    inside = set() if decoder is None else {id(module) for module in decoder.modules()}
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and id(module) not in inside and len(module):
            names = [name for name, _ in module[0].named_children()]
            if any("attn" in name or "attention" in name for name in names):
                yield module


def _active_share(text: Any) -> float:
    """The part of a layer's experts that a token goes to; 1 where there are none."""
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    experts = next((getattr(text, name) for name in names if getattr(text, name, None)), None)
    taken = getattr(text, "num_experts_per_tok", None)
    return 1.0 if not experts or not taken else min(1.0, taken / experts)


def matrix_weights(module: Any, share: float) -> float:
    """Numbers in the matrices of a module that one token is multiplied with."""
    found = 0.0
    for name, parameter in module.named_parameters():
        if parameter.ndim == 3:  # a matrix for each expert
            found += parameter.numel() * share
        elif parameter.ndim == 2:
            found += parameter.numel() * (share if ".experts." in name or name.startswith("experts.") else 1.0)
    return found
