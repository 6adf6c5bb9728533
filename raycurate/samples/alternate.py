"""Conversations in which user and assistant take turns: all that the formats with `from` and `value` can be trained on.

LLaVA's trainer stops at two turns of one role in a row, LLaMA-Factory's loader leaves the row out with a warning. These
formats have no word for an answer that is context only either, so joining turns loses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from raycurate.samples.schema import Message, Sample

ALTERNATING = ("llava", "sharegpt", "llamafactory")
"""Formats whose trainers want them."""


def alternates(messages: Sequence[Message]) -> bool:
    """Whether no two turns in a row are of one role."""
    return all(first.role != second.role for first, second in pairwise(messages))


def joined(sample: Sample) -> Sample:
    """The sample with turns of one role in a row as one, their texts one below the other."""
    runs = groupby(sample.messages, key=lambda message: message.role)
    messages = tuple(Message(role, "\n".join(turn.text for turn in turns)) for role, turns in runs)
    name = sample.source_id if sample.source_id is not None else sample.key  # the key is that of the turns apart
    return replace(sample, messages=messages, source_id=name)
