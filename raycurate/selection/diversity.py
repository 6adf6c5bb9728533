"""How diverse a selection is, by task: counts, entropy and the number of tasks it is worth.

H = -sum_t p_t ln p_t;  effective tasks = exp(H), between 1 (one task) and T (all alike)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """Tasks of a set of rows.

    Attributes:
        rows: rows in all.
        tasks: tasks that have rows.
        entropy: of the task shares, in nats.
        effective_tasks: exp(entropy); 0 for no rows.
        largest_share: part of the rows in the largest task; 0 for no rows.
    """

    rows: int
    tasks: int
    entropy: float
    effective_tasks: float
    largest_share: float


def task_diversity(counts: Mapping[str, int]) -> Diversity:
    """Return the diversity of rows counted by task."""
    total = sum(counts.values())
    shares = sorted(count / total for count in counts.values() if count > 0)
    entropy = -math.fsum(share * math.log(share) for share in shares) + 0.0
    return Diversity(
        rows=total,
        tasks=len(shares),
        entropy=entropy,
        effective_tasks=math.exp(entropy) if shares else 0.0,
        largest_share=shares[-1] if shares else 0.0,
    )


def top_tasks(counts: Mapping[str, int], limit: int = 3) -> list[tuple[str, int]]:
    """Return the `limit` largest tasks with their counts, ties by name."""
    present: Iterable[tuple[str, int]] = ((task, count) for task, count in counts.items() if count > 0)
    return sorted(present, key=lambda item: (-item[1], item[0]))[:limit]
