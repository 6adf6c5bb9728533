"""How many tokens a model has positions for: a longer row is read outside of all that it was trained on.

Learned positions end there with an error; rotary ones go on, and what they give is not said to be wrong. A factor by
which rotary positions are stretched (YaRN, linear, dynamic, LongRoPE) counts, whether or not the configuration's own
number holds it already: the bound is then too high rather than too low. Limits: with several rotary axes (Qwen2-VL) the
tokens of an image are numbered by its sides, and such a row has more tokens than positions; its tokens are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raycurate.models.source import resolve_model


def longest_row(model: str, max_length: int, *, trust_remote_code: bool = False) -> int:
    """`max_length`, or the model's number of positions where that is lower; reads its configuration only."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=trust_remote_code)
    positions = positions_of(config.get_text_config(decoder=True))
    return max_length if positions is None else min(max_length, positions)


def positions_of(text_config: Any) -> int | None:
    """Positions of a decoder by its configuration, None where it names none."""
    number = getattr(text_config, "max_position_embeddings", None)
    if not isinstance(number, int) or number < 1:
        return None
    rope = [getattr(text_config, name, None) for name in ("rope_parameters", "rope_scaling")]
    return int(number * max([1.0, *(factor for each in rope for factor in _factors(each))]))


def _factors(value: Any) -> Iterator[float]:
    """Each `factor` in rotary settings, which may be given layer type by layer type."""
    if isinstance(value, Mapping):
        if isinstance(value.get("factor"), int | float):
            yield float(value["factor"])
        for each in value.values():
            yield from _factors(each)
