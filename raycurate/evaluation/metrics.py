"""The metrics by name. A user's own is named `package.module:object`.

A user's object is a `Metric`, or a function of (predictions, references, meta) that returns a number, a mapping of
numbers whose first is the headline, or `Scores`; such a function counts as higher-is-better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycurate.errors import UserError
from raycurate.evaluation.answers import exact_match, relaxed_accuracy, vqa_accuracy
from raycurate.evaluation.base import Meta, Metric, Scores
from raycurate.evaluation.boxes import iou, no_box
from raycurate.evaluation.captions import cider, gleu
from raycurate.evaluation.choices import choice, no_option
from raycurate.evaluation.yes_no import mme, neither_yes_nor_no, pope
from raycurate.plugins import find_plugin

_FRACTION = "part of rows, 0..1"

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="exact_match", unit=_FRACTION, score=exact_match),
        Metric(name="vqa_accuracy", unit="mean soft accuracy, 0..1", score=vqa_accuracy),
        Metric(name="relaxed_accuracy", unit=_FRACTION, score=relaxed_accuracy),
        Metric(name="cider", unit="CIDEr-D, 0..10", score=cider),
        Metric(name="gleu", unit="GLEU, 0..1", score=gleu),
        Metric(name="choice", unit=_FRACTION, score=choice, misfit=no_option),
        Metric(name="iou", unit="part of boxes with IoU above 0.5, 0..1", score=iou, misfit=no_box),
        Metric(name="pope", unit="F1 of yes, 0..1", score=pope, misfit=neither_yes_nor_no),
        Metric(
            name="mme",
            unit="points of 2000 (perception), or percent where a category is missing",
            score=mme,
            needs=("category", "image"),
            misfit=neither_yes_nor_no,
        ),
    )
}


def get_metric(name: str) -> Metric:
    """Return the metric of that name, or the one that `package.module:object` names.

    Raises:
        UserError: no such metric, with the nearest name; or an object that cannot be imported or called.
    """
    found = find_plugin("metric", name, METRICS)
    if isinstance(found, Metric):
        return found
    if not callable(found):
        raise UserError(f"metric '{name}' is a {type(found).__name__}; it must be a Metric or a function")
    return _from_function(name, name.rpartition(":")[2], found)


def _from_function(name: str, short: str, function: Callable[..., Any]) -> Metric:
    def score(predictions: Sequence[str], references: Sequence[Sequence[str]], meta: Sequence[Meta]) -> Scores:
        result = function(predictions, references, meta)
        if isinstance(result, Scores):
            return result
        values = result if isinstance(result, Mapping) else {short: result}
        try:
            numbers = {str(key): float(value) for key, value in values.items()}
        except (TypeError, ValueError) as error:
            raise UserError(f"metric '{name}' gave {result!r}; it must give numbers") from error
        if not numbers:
            raise UserError(f"metric '{name}' gave no number")
        return Scores(headline=next(iter(numbers)), values=numbers)

    return Metric(name=name, unit="as the function defines it", score=score)
