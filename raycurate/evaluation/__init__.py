"""How good a model is, and what that cost: metrics per task, and the scoreboard over methods and seeds.

Pure functions of texts and numbers: no Ray and no transformers in this package. Start at `base.py` for what a
metric is, `metrics.py` for the list, `tasks.py` for which metric a task gets, `scoreboard.py` for the table.
"""

from __future__ import annotations

from raycurate.evaluation.base import Metric, Scores
from raycurate.evaluation.formats import to_csv, to_json, to_markdown
from raycurate.evaluation.metrics import METRICS, get_metric
from raycurate.evaluation.scoreboard import Column, Result, Scoreboard, build_scoreboard
from raycurate.evaluation.tasks import default_metric, metrics_for_tasks

__all__ = [
    "METRICS",
    "Column",
    "Metric",
    "Result",
    "Scoreboard",
    "Scores",
    "build_scoreboard",
    "default_metric",
    "get_metric",
    "metrics_for_tasks",
    "to_csv",
    "to_json",
    "to_markdown",
]
