"""Data selection as pure functions of arrays: features, clusters and scores in, keep or drop out.

No Ray and no transformers in this package; `raycurate.stages` distributes it. Start at `base.py` for the
protocol, `coincide.py` for the main method and `local.py` for how the pieces run together.
"""

from __future__ import annotations

from raycurate.selection.base import (
    REASONS,
    ClusterTable,
    Decisions,
    Goal,
    Plan,
    RowOrder,
    SelectionTables,
    Selector,
)
from raycurate.selection.methods import METHODS, build_selector, get_method

__all__ = [
    "METHODS",
    "REASONS",
    "ClusterTable",
    "Decisions",
    "Goal",
    "Plan",
    "RowOrder",
    "SelectionTables",
    "Selector",
    "build_selector",
    "get_method",
]
