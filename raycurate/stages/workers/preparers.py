"""Processors that a loader's process keeps: reading one takes longer than preparing a window with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol


class _Packs(Protocol):
    """What the settings of extract, score and evaluate say alike of batches."""

    trust_remote_code: bool
    max_length: int
    batch_tokens: int
    batch_rows: int


def preparer_of(kind: Callable[..., Any], source: str, config: _Packs, dtype: str) -> Any:
    """A preparer of that kind for the model at `source`, loaded once per process; torch keeps to one thread in it.

    A row is `max_length` tokens at most, and no longer than the model has positions.
    """
    return _load(
        kind, source, config.trust_remote_code, config.max_length, config.batch_tokens, config.batch_rows, dtype
    )


@functools.lru_cache(maxsize=4)
def _load(
    kind: Callable[..., Any], source: str, trust_remote_code: bool, max_length: int, tokens: int, rows: int, dtype: str
) -> Any:
    import torch

    from raycurate.models.adapter import load_processor
    from raycurate.models.positions import longest_row

    torch.set_num_threads(1)
    return kind(
        load_processor(source, trust_remote_code=trust_remote_code),
        max_length=longest_row(source, max_length, trust_remote_code=trust_remote_code),
        token_budget=tokens,
        max_rows=rows,
        pixel_dtype=getattr(torch, dtype.removeprefix("torch.")),
    )
