"""Processors that a loader's process keeps: reading one takes longer than preparing a window with it."""

from __future__ import annotations

import functools
from typing import Any


@functools.lru_cache(maxsize=4)
def preparer_of(
    kind: type[Any], source: str, trust_remote_code: bool, max_length: int, tokens: int, rows: int, dtype: str
) -> Any:
    """A preparer of that kind for the model at `source`, loaded once per process; torch keeps to one thread in it.

    A row is `max_length` tokens at most, and no longer than the model has positions.
    """
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
