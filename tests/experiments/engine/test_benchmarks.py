"""Scores of a probe on the scale from 0 to 100."""

from __future__ import annotations

import pytest

from raycurate.errors import UserError
from raycurate.evaluation.metrics import METRICS
from raycurate.experiments.engine.benchmarks import BEST_VALUES, benchmarks_of
from raycurate.experiments.engine.probes import ProbeResult


def result(scores, headlines) -> ProbeResult:
    return ProbeResult(label="p", rows=1, steps=1, loss=1.0, scores=scores, headlines=headlines)


def test_every_metric_has_its_best_value():
    assert set(BEST_VALUES) == set(METRICS)


def test_metrics_are_scaled_and_turned():
    """CIDEr has 10 as its best; a loss-like metric is turned; a task with two metrics gives two benchmarks."""
    found = benchmarks_of(
        result(
            {"caption": {"cider": 2.5}, "count": {"exact_match": 0.5, "errors": 3}},
            {"caption": {"cider": True}, "count": {"exact_match": True, "errors": False}},
        ),
        {"errors": 4},
    )
    assert found == {"caption": 25.0, "count/exact_match": 50.0, "count/errors": 25.0}


def test_an_unknown_metric_or_a_score_beyond_the_best_is_told():
    """The message says which setting to give."""
    with pytest.raises(UserError, match=r"--set best_values.own=100"):
        benchmarks_of(result({"a": {"own": 7.0}}, {"a": {"own": True}}), {})
    with pytest.raises(UserError, match=r"'exact_match' of 'a' is 7"):
        benchmarks_of(result({"a": {"exact_match": 7.0}}, {"a": {"exact_match": True}}), {})
