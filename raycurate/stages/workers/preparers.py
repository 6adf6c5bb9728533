"""Processors that a loader's process keeps: reading one takes longer than preparing a window with it."""

from __future__ import annotations

import functools
from typing import Any


@functools.lru_cache(maxsize=4)
def preparer_of(
    kind: type[Any], source: str, trust_remote_code: bool, max_length: int, tokens: int, rows: int, dtype: str
) -> Any:
    """A preparer of that kind for the model at `source`, loaded once per process; torch keeps to one thread in it."""
    import torch

    from raycurate.models.adapter import load_processor

    torch.set_num_threads(1)
    return kind(
        load_processor(source, trust_remote_code=trust_remote_code),
        max_length=max_length,
        token_budget=tokens,
        max_rows=rows,
        pixel_dtype=getattr(torch, dtype.removeprefix("torch.")),
    )
