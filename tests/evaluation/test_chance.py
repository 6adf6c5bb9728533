"""Which tasks are above chance: a constant answer's score under the task's own metric, and a margin."""

from __future__ import annotations

import pytest

from raycurate.evaluation.chance import chance_of, constant_score


def _rows(answers, right, metric="exact_match"):
    return [
        {
            "key": f"k{i}",
            "turn": 0,
            "image": f"image {i}",
            "references": [answer],
            "scores": {metric: float(good)},
        }
        for i, (answer, good) in enumerate(zip(answers, right, strict=True))
    ]


def test_the_constant_answer_is_the_most_frequent_one():
    """A yes/no task is right for 60 % of the rows for whoever says yes."""
    rows = _rows(["yes"] * 60 + ["no"] * 40, [0] * 100)
    assert constant_score("exact_match", rows) == (0.6, "yes")


def test_a_metric_of_its_own_scale_scores_the_constant_too():
    """Relaxed accuracy takes 100 for 104: the best constant is not the most frequent answer."""
    rows = _rows(["100"] * 3 + ["104"] * 3 + ["96"] * 3 + ["7"] * 4, [0] * 13, "relaxed_accuracy")
    score, answer = constant_score("relaxed_accuracy", rows)
    assert answer == "100"
    assert score == pytest.approx(9 / 13)


@pytest.mark.parametrize(("good", "above"), [(60, False), (65, False), (80, True)])
def test_the_reference_has_to_be_clearly_above(good, above):
    """Two standard errors of 100 rows are about ten points."""
    rows = _rows(["yes"] * 60 + ["no"] * 40, [1] * good + [0] * (100 - good))
    found = chance_of("exact_match", [rows, rows], higher_is_better=True)
    assert found.above is above
    assert found.score == pytest.approx(good / 100)
    assert "always 'yes'" in str(found)


def test_what_cannot_be_told_is_not_judged():
    """A metric that needs annotations, one without a number per row, too few images, no rows."""
    rows = _rows(["yes"] * 20, [1] * 20)
    assert chance_of("mme", [rows], higher_is_better=True) is None
    assert chance_of("cider", [rows], higher_is_better=True) is None
    assert chance_of("exact_match", [rows[:5]], higher_is_better=True) is None
    assert chance_of("exact_match", [[]], higher_is_better=True) is None
    assert chance_of("exact_match", [], higher_is_better=True) is None
