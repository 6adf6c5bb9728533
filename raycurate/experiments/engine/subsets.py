"""How many rows of each task a random subset has: in proportion, exact in number, and nested.

Row k of the N_t rows of a task stands at (k + 1/2) / N_t; a subset of n rows has the n lowest of all tasks, ties by
task. So its size is exact, each task is within a row or so of its share, and a smaller subset lies in a larger one:
with one seed `training/mixture.py` takes the same rows first.

Cost: a sort of all rows' places, 16 bytes per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import Label, make_config
from raycurate.stages.finetune import prepare
from raycurate.training.config import FinetuneConfig


def proportional_rows(sizes: Mapping[str, int], rows: int) -> dict[str, int]:
    """The rows of each task in a subset of `rows`; tasks without any are left out.

    Raises:
        UserError: more rows than there are.
    """
    total = sum(sizes.values())
    if rows > total:
        raise UserError(f"{rows:,} rows are asked for, and {total:,} can be trained on; ask for fewer")
    names = sorted(sizes)
    place_N = np.concatenate([(np.arange(sizes[name]) + 0.5) / sizes[name] for name in names])
    task_N = np.repeat(np.arange(len(names)), [sizes[name] for name in names])
    chosen = task_N[np.argsort(place_N, kind="stable")[:rows]]
    counts = np.bincount(chosen, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def trainable_rows(run: Run, finetune: Mapping[str, Any], samples: Label) -> dict[str, int]:
    """The rows of each task that a training with these settings can use; tokenises if that is not done yet."""
    config = make_config(FinetuneConfig, {**finetune, "mixture": [{"samples": samples}]}, "finetune")
    (source,) = prepare(run, config).sources
    sizes: dict[str, int] = source.noun.require("finetune").metrics["tasks"]
    return sizes
