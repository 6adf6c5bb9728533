from __future__ import annotations

import math
import sys

import pytest

from raycurate.errors import UserError
from raycurate.evaluation import METRICS, Metric, Scores
from raycurate.evaluation.base import load_library, mean

EXACT = METRICS["exact_match"]


def test_lengths_must_agree_and_rows_exist() -> None:
    """The message counts all three lists."""
    with pytest.raises(UserError, match="got 2 predictions, 1 references, 2 meta"):
        EXACT.compute(["a", "b"], [["a"]])
    with pytest.raises(UserError, match="at least one row"):
        EXACT.compute([], [])


@pytest.mark.parametrize("prediction", [None, 3, [0.1, 0.2, 0.3, 0.4], b"yes"])
def test_a_prediction_that_is_not_text_is_named_by_its_row(prediction: object) -> None:
    """A box given as a list, bytes and None are refused by every metric before it runs."""
    for metric in METRICS.values():
        with pytest.raises(UserError, match="prediction of row 1 is a"):
            metric.compute(["yes", prediction], [["yes"], ["yes"]], [{"category": "c", "image": "i"}] * 2)


@pytest.mark.parametrize("answers", [[], "yes", ["yes", None]])
def test_references_must_be_a_list_of_texts(answers: object) -> None:
    """A bare string would otherwise be read as a list of letters."""
    with pytest.raises(UserError, match="references of row 0"):
        EXACT.compute(["yes"], [answers])


def test_a_missing_meta_key_is_named() -> None:
    """MME needs the category and the image."""
    with pytest.raises(UserError, match=r"needs meta\['image'\] in every row; row 0"):
        METRICS["mme"].compute(["yes"], [["yes"]], [{"category": "count"}])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (Scores(headline="x", values={"y": 1.0}), "no value for its headline 'x'"),
        (Scores(headline="x", values={"x": math.nan}), "gave nan for 'x'"),
        (Scores(headline="x", values={"x": 1.0}, rows={"x": [1.0, 2.0]}), "2 row values of 'x' for 1 rows"),
    ],
)
def test_what_a_metric_gives_is_checked(scores: Scores, message: str) -> None:
    """No headline, a number that is not finite, rows of another length."""
    with pytest.raises(UserError, match=message):
        Metric(name="m", unit="", score=lambda *_: scores).compute(["a"], [["a"]])


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "nltk.translate.gleu_score", None)
    with pytest.raises(UserError, match=r"needs nltk .*pip install 'raycurate\[eval\]'"):
        METRICS["gleu"].compute(["a"], [["a"]])
    with pytest.raises(UserError, match="no_such_module"):
        load_library("no_such_module", "something")


def test_the_mean_does_not_depend_on_the_order() -> None:
    """A plain sum of these gives another digit backwards."""
    values = [0.1, 1e16, -1e16, 0.3, 0.7]
    assert mean(values) == mean(values[::-1])
    assert sum(values) != sum(values[::-1])
