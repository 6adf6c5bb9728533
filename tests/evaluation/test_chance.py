"""Which tasks are above chance: a constant answer's score under the task's own metric, and a margin."""

from __future__ import annotations

import pytest

from raycurate.evaluation.chance import chance_of, constant_score


def _questions(answers):
    items = [(f"k{i}", 0) for i in range(len(answers))]
    references = {item: (answer,) for item, answer in zip(items, answers, strict=True)}
    return items, references, {item: f"image {i}" for i, item in enumerate(items)}


def _constant(metric, answers):
    return constant_score(metric, [(answer,) for answer in answers], [f"image {i}" for i in range(len(answers))])


def _chance(metric, answers, *runs):
    items, references, images = _questions(answers)
    scores = [dict(zip(items, map(float, run), strict=True)) for run in runs]
    return chance_of(metric, scores, references, images, higher_is_better=True)


def test_the_constant_answer_is_the_most_frequent_one():
    """A yes/no task is right for 60 % of the rows for whoever says yes."""
    assert _constant("exact_match", ["yes"] * 60 + ["no"] * 40) == (0.6, "yes")


def test_a_metric_of_its_own_scale_scores_the_constant_too():
    """Relaxed accuracy takes 100 for 104: the best constant is not the most frequent answer."""
    score, answer = _constant("relaxed_accuracy", ["100"] * 3 + ["104"] * 3 + ["96"] * 2 + ["7"] * 2)
    assert answer == "100"
    assert score == pytest.approx(8 / 10)


@pytest.mark.parametrize(("good", "above"), [(60, False), (65, False), (80, True)])
def test_the_reference_has_to_be_clearly_above(good, above):
    """Two standard errors of 100 rows are about ten points."""
    right = [1] * good + [0] * (100 - good)
    found = _chance("exact_match", ["yes"] * 60 + ["no"] * 40, right, right)
    assert found.above is above
    assert found.score == pytest.approx(good / 100)
    assert "always 'yes'" in str(found)


def test_what_cannot_be_told_is_not_judged():
    """A metric that needs annotations, too few images, no run."""
    assert _chance("mme", ["yes"] * 20, [1] * 20) is None
    assert _chance("exact_match", ["yes"] * 5, [1] * 5) is None
    assert _chance("exact_match", ["yes"] * 20) is None
