"""How far a fit of ``cluster`` is: the checkpoint beside its noun."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from raycurate.clustering.kmeans import IterationReport
from raycurate.run.store import Noun

CHECKPOINT = "checkpoint"
STATE = f"{CHECKPOINT}/state.json"


@dataclass
class FitState:
    """What a checkpoint says beside the centroids of iteration ``upcoming``, which lie in ``pieces`` files.

    Attributes:
        of: the fingerprint of the clusters that a fit from standing centroids is for; '' for other fits.
        fit_of_new: what was found of new rows at the standing centroids.
    """

    upcoming: int = 0
    pieces: int = 0
    splits: list[tuple[int, int]] = field(default_factory=list)
    history: list[IterationReport] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    threshold: int | None = None
    fitted: bool = False
    of: str = ""
    fit_of_new: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Where the centroids lie, without the number of the piece."""
        return f"{CHECKPOINT}/{self.upcoming:05d}"

    @classmethod
    def load(cls, noun: Noun) -> FitState:
        """The saved state, or a fresh one."""
        value = noun.read_json(STATE)
        if value is None:
            return cls()
        value["history"] = [IterationReport(**report) for report in value["history"]]
        return cls(**value)

    def save(self, noun: Noun) -> None:
        """Write the state, which names centroids that are written already."""
        noun.write_json(STATE, asdict(self))
