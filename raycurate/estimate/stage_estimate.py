"""What one stage is foreseen to take, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one stage will take.

    Attributes:
        stage: its section in a recipe.
        label: of what it makes.
        rows: that it handles.
        seconds: in all; None where it cannot be said.
        parts: of them.
        disk_bytes: that stay in the run directory.
        memory_bytes: of the largest process, on a card where the stage has one, beside the libraries.
        requests: to an object store, were the run on one.
        traffic_bytes: read and written.
        nodes: by group.
        cost: of the nodes while they work; None without prices.
        actual: seconds that it took, where it is done.
        notes: what was assumed, or why there are no seconds.
    """

    stage: str
    label: str
    rows: int = 0
    seconds: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0
    requests: float = 0.0
    traffic_bytes: float = 0.0
    nodes: Mapping[str, int] = field(default_factory=dict)
    cost: float | None = None
    actual: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Seconds foreseen for one that was taken."""
        return None if self.seconds is None or not self.actual else self.seconds / self.actual

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded as far as they mean anything."""
        values = asdict(self)
        parts = {name: round(value, 3) for name, value in self.parts.items()}
        for name in ("seconds", "cost", "actual"):
            values[name] = None if values[name] is None else round(values[name], 4)
        for name in ("disk_bytes", "memory_bytes", "requests", "traffic_bytes"):
            values[name] = round(values[name])
        ratio = None if self.ratio is None else round(self.ratio, 3)
        return {**values, "parts": parts, "notes": list(self.notes), "ratio": ratio}
