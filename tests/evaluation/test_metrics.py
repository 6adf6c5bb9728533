from __future__ import annotations

from typing import Any

import pytest

from raycurate.errors import UserError
from raycurate.evaluation import METRICS, Metric, Scores, get_metric

SHORTEST = Metric(name="shortest", unit="words", score=lambda *_: Scores(headline="x", values={"x": 1.0}))


def half(*_: Any) -> float:
    return 0.5


def two_numbers(*_: Any) -> dict[str, float]:
    return {"main": 1, "other": 2}


def scores(*_: Any) -> Scores:
    return Scores(headline="b", values={"a": 1.0, "b": 2.0})


def text(*_: Any) -> str:
    return "good"


def nothing(*_: Any) -> dict[str, float]:
    return {}


def test_every_metric_has_its_name_and_unit() -> None:
    """The list names what each number means."""
    assert all(metric.name == name and metric.unit for name, metric in METRICS.items())
    assert get_metric("cider") is METRICS["cider"]


def test_an_unknown_name_gets_the_nearest() -> None:
    """The message names the nearest metric and all others."""
    with pytest.raises(UserError, match="unknown metric 'cidre'. Did you mean 'cider'") as error:
        get_metric("cidre")
    assert "Available: choice, cider, exact_match" in str(error.value)


def test_a_metric_of_the_user_is_loaded_by_its_path() -> None:
    """A Metric as it is; a function by what it returns."""
    assert get_metric(f"{__name__}:SHORTEST") is SHORTEST
    for name, headline, value in (("half", "half", 0.5), ("two_numbers", "main", 1), ("scores", "b", 2)):
        found = get_metric(f"{__name__}:{name}").compute(["a"], [["a"]])
        assert (found.headline, found.value) == (headline, value)


@pytest.mark.parametrize(("name", "message"), [("text", "must give numbers"), ("nothing", "gave no number")])
def test_a_function_must_give_numbers(name: str, message: str) -> None:
    """The message names the metric."""
    with pytest.raises(UserError, match=message):
        get_metric(f"{__name__}:{name}").compute(["a"], [["a"]])


@pytest.mark.parametrize("name", ["no_such_package:f", "math:nothing", ":x", "math:"])
def test_a_path_that_cannot_be_imported_is_a_user_error(name: str) -> None:
    """The message says what to give."""
    with pytest.raises(UserError, match="give package.module:object"):
        get_metric(name)
    with pytest.raises(UserError, match="must be a Metric or a function"):
        get_metric("math:pi")
