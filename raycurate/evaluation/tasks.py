"""Which metric a task gets: a pattern of its name, unless the user says otherwise.

The first row of `DEFAULTS` whose pattern is found in the lower-cased name wins; a task that none fits gets exact
match. Captions come before boxes because RefCOCO has both. ChartQA gets its own relaxed accuracy; CoTBal's column
of that name is exact match, so give `{"ChartQA": "exact_match"}` to compare with it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from raycurate.errors import unknown_name
from raycurate.evaluation.base import Metric
from raycurate.evaluation.metrics import get_metric

DEFAULTS: tuple[tuple[str, str], ...] = (
    (r"caption|ref[-_]?cap\b|nocaps|flickr30k|sharegpt4v|describ", "cider"),
    (r"bbox|\bbox(es)?\b|grounding|refcoco|\brec\b", "iou"),
    (r"\bpope\b", "pope"),
    (r"\bmme\b", "mme"),
    (r"chart_?qa", "relaxed_accuracy"),
    (r"ocr_?vqa|easy_?vqa", "exact_match"),
    (r"vqa_?v2|text_?vqa|vizwiz|ok_?vqa|st_?vqa", "vqa_accuracy"),
)
FALLBACK = "exact_match"


def default_metric(task: str) -> str:
    """Return the name of the metric that a task of this name gets."""
    # "-" and "_" separate words in task names, but "_" is a letter to \b.
    name = re.sub(r"[-_\s]+", "_", task.lower())
    words = name.replace("_", " ")
    return next(
        (metric for pattern, metric in DEFAULTS if re.search(pattern, name) or re.search(pattern, words)), FALLBACK
    )


def metrics_for_tasks(
    tasks: Iterable[str], overrides: Mapping[str, str | Iterable[str]] | None = None
) -> dict[str, tuple[Metric, ...]]:
    """Return the metrics of every task.

    Args:
        tasks: task names.
        overrides: task name or shell pattern (`ref*`) -> a metric or several. A task's own name goes before a
            pattern, and an earlier pattern before a later one.

    Raises:
        UserError: an unknown metric, or an override that fits no task.
    """
    names, given = list(tasks), dict(overrides or {})
    for pattern in given:
        if pattern not in names and not fnmatch.filter(names, pattern):
            raise unknown_name("task in the metric overrides", pattern, names)
    return {task: tuple(map(get_metric, _chosen(task, given))) for task in names}


def _chosen(task: str, overrides: Mapping[str, str | Iterable[str]]) -> tuple[str, ...]:
    fits = [task] if task in overrides else [key for key in overrides if fnmatch.fnmatchcase(task, key)]
    if not fits:
        return (default_metric(task),)
    chosen = overrides[fits[0]]
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)
