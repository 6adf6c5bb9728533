"""How much of each task, and which datasets to add: functions of scores and losses, without any training.

No Ray and no transformers in this package. Start at `cotbal.py` for task weights from a score table (`scores.py` says
what that is), `online.py` for weights that change during training, `individual_select.py` for candidate datasets,
`measured_transferability.py` for what clusters give to each other.
"""

from __future__ import annotations

from raycurate.balancing.config import BalanceConfig
from raycurate.balancing.cotbal import Balance, balance
from raycurate.balancing.online import WEIGHTINGS, build_weighting
from raycurate.balancing.record import record
from raycurate.balancing.scores import ScoreTable, parse_groups, parse_scores

__all__ = [
    "WEIGHTINGS",
    "Balance",
    "BalanceConfig",
    "ScoreTable",
    "balance",
    "build_weighting",
    "parse_groups",
    "parse_scores",
    "record",
]
