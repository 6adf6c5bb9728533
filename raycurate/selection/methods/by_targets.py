"""Base of the methods that order all rows by their likeness to the validation rows of each target.

A target is a task of the validation rows, which are ingested and scored under a label of their own. The likeness is
streamed by shards (`stages/ranking/targets.py`); the order is made in one task, which holds 24 N T bytes for T targets.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection.methods.by_rank import ByRank
from raycurate.selection.ranked import Ordering


@dataclass(frozen=True, kw_only=True)
class ByTargets(ByRank):
    """A subclass gives `rank_features`, `rank_likeness` and `rank_by_targets`.

    Attributes:
        targets: label of the validation rows.
    """

    rank_features: ClassVar[str]
    rank_likeness: ClassVar[Literal["nearest", "mean"]]
    rank_score: ClassVar[tuple[str, str] | None] = None
    rank_options: ClassVar[tuple[str, ...]] = ("targets",)

    targets: str = "val"

    def __post_init__(self) -> None:
        if self.targets == "main":
            raise UserError("targets is 'main', the rows to choose from; name the label of validation rows, e.g. val")

    def rank_bytes_per_row(self, _dim: int) -> int:
        """Return what the order of a row takes, without its likeness to the targets."""
        return 256

    @abstractmethod
    def rank_by_targets(self, similarity_NT: NDArray[np.float64]) -> Ordering:
        """Order all rows, sorted by key, by their likeness to each target."""
