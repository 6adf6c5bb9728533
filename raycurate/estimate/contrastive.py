"""The work of CLIP and SigLIP scores: two towers, one image and one instruction a row.

    FLOP of an image of p patches: 2 p w + 4 p^2 d per block;   of a text of t tokens the same, with t

w are the matrices of a block, d its width; the text tower reads at most its own positions. The networks are built on
the meta device, as `geometry` builds them: no weight is loaded.
Cost: seconds, the import of transformers. Limits: patches are those of the configuration's own image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raycurate.errors import UserError
from raycurate.estimate.formulas import ACTOR_STARTS, ELEMENT_BYTES, LAYER_NUMBERS, LOADER_STARTS
from raycurate.estimate.geometry import matrix_weights, stacks
from raycurate.estimate.published import PUBLISHED_CLIP
from raycurate.estimate.source import Source
from raycurate.estimate.tokens import CHARS_PER_TOKEN
from raycurate.estimate.work import Work

MARKS = 2.0
"""Tokens around a text."""


@dataclass(frozen=True, slots=True)
class Towers:
    """What the formulas know of a CLIP model.

    Attributes:
        patches: of an image.
        positions: that the text tower reads at most.
        image_weights: numbers that a patch is multiplied with, all blocks.
        text_weights: numbers that a token is multiplied with, all blocks.
        image_square: FLOP per pair of patches, all blocks: 4 d each.
        text_square: the same for pairs of tokens.
        parameters: all numbers.
        image_width: of the image tower's states.
        width: of the shared space.
    """

    patches: float
    positions: int
    image_weights: float
    text_weights: float
    image_square: float
    text_square: float
    parameters: int
    image_width: int
    width: int


def read_towers(model: str, *, trust_remote_code: bool = False) -> Towers:
    """The towers of a CLIP or SigLIP model by its configuration.

    Raises:
        UserError: no configuration can be read, or it is of no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        if model not in PUBLISHED_CLIP:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the configuration of the CLIP model '{model}' cannot be read here: {reason}") from None
        values = PUBLISHED_CLIP[model]
        config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    with torch.device("meta"):
        network = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    if not hasattr(network, "vision_model") or not hasattr(network, "text_model"):
        raise UserError(f"'{model}' is of type '{config.model_type}', which is no CLIP or SigLIP model")
    return towers_of(network)


def towers_of(network: Any) -> Towers:
    """The towers of a built network, on the meta device or not."""
    vision, text = network.config.vision_config, network.config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    image, image_square = _tower(network.vision_model)
    words, text_square = _tower(network.text_model)
    return Towers(
        patches=float(patches),
        positions=int(text.max_position_embeddings),
        image_weights=image + 3 * vision.patch_size**2 * vision.hidden_size,
        text_weights=words,
        image_square=image_square,
        text_square=text_square,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        image_width=int(vision.hidden_size),
        width=int(getattr(network.config, "projection_dim", None) or text.hidden_size),
    )


def _tower(tower: Any) -> tuple[float, float]:
    blocks = [block for stack in stacks(tower) for block in stack]
    width = tower.config.hidden_size
    return sum(matrix_weights(block, 1.0) for block in blocks), 4.0 * width * len(blocks)


def clip_work(source: Source, towers: Towers, *, clip_rows: int, most_cards: int) -> Work:
    """Both towers over the rows of a source, and their embeddings written twice; reading the rows comes besides."""
    images = source.rows * min(source.distinct, 1.0)
    tokens = min(float(towers.positions), source.chars / CHARS_PER_TOKEN + MARKS)
    patches = towers.patches
    flop = images * (2 * patches * towers.image_weights + patches * patches * towers.image_square)
    flop += source.rows * (2 * tokens * towers.text_weights + tokens * tokens * towers.text_square)
    features = 2.0 * ELEMENT_BYTES * towers.width * source.rows
    held = clip_rows * patches * ELEMENT_BYTES * LAYER_NUMBERS * towers.image_width
    return Work(
        rows=0,
        network_flop=flop,
        write_bytes=2 * features,
        read_bytes=features,
        disk_bytes=features,
        memory_bytes=ELEMENT_BYTES * towers.parameters + held,
        starts=ACTOR_STARTS,
        loader_starts=LOADER_STARTS,
        use="extract",
        most_cards=most_cards,
    )
