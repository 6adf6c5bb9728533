from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.evaluation import METRICS
from raycurate.evaluation.yes_no import COGNITION, PERCEPTION, mme_says_yes, pope_says_yes

POPE, MME = METRICS["pope"], METRICS["mme"]


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("No, there is none.", False),
        ("There is not a cat", False),
        ("Yes. There is no dog.", True),
        ("NO", True),
        ("Nothing", True),
        ("", True),
    ],
)
def test_pope_parser(text: str, yes: bool) -> None:
    """The first sentence, three words that deny, all else is yes."""
    assert pope_says_yes(text) is yes


def test_pope_f1_by_hand() -> None:
    """Two right yes, one wrong yes, one missed: precision 2/3, recall 2/3."""
    scores = POPE.compute(["Yes", "yes", "yes", "no", "No"], [["yes"], ["yes"], ["no"], ["yes"], ["no"]])
    assert scores.value == pytest.approx(2 / 3)
    assert scores.values["precision"] == scores.values["recall"] == pytest.approx(2 / 3)
    assert scores.values["accuracy"] == scores.values["yes_ratio"] == 0.6
    assert scores.rows["accuracy"] == [1, 1, 0, 0, 1]


def test_pope_headline_is_the_mean_of_the_categories() -> None:
    """F1 of 1 and of 0 give 0.5, whatever their sizes."""
    meta = [{"category": name} for name in ("random", "random", "random", "popular")]
    scores = POPE.compute(["yes", "yes", "no", "no"], [["yes"], ["yes"], ["no"], ["yes"]], meta)
    assert (scores.values["f1_random"], scores.values["f1_popular"], scores.value) == (1, 0, 0.5)
    with pytest.raises(UserError, match="row 1 has no meta"):
        POPE.compute(["yes", "yes"], [["yes"], ["yes"]], [{"category": "random"}, {}])


def test_pope_without_a_yes_is_zero_and_not_an_error() -> None:
    """No positive on either side."""
    assert POPE.compute(["no"], [["no"]]).values == {
        "f1": 0,
        "accuracy": 1,
        "precision": 0,
        "recall": 0,
        "yes_ratio": 0,
    }


@pytest.mark.parametrize("answers", [["maybe"], ["yes", "no"], [""]])
def test_a_reference_that_is_neither_yes_nor_no_is_a_user_error(answers: list[str]) -> None:
    """Both benchmarks."""
    with pytest.raises(UserError, match="this metric needs one, yes or no"):
        POPE.compute(["yes"], [answers])
    with pytest.raises(UserError, match="this metric needs one, yes or no"):
        MME.compute(["yes"], [answers], [{"category": "count", "image": "1"}])


@given(rows=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_pope_f1_is_the_formula_in_any_order(rows: list[tuple[bool, bool]], seed: int) -> None:
    """2 TP / (2 TP + FP + FN)."""
    random.Random(seed).shuffle(rows)
    say = {True: "yes", False: "no"}
    value = POPE.compute([say[given] for given, _ in rows], [[say[right]] for _, right in rows]).value
    both = sum(given and right for given, right in rows)
    total = sum(given for given, _ in rows) + sum(right for _, right in rows)
    assert value == pytest.approx(2 * both / total if total else 0)


@pytest.mark.parametrize(
    ("text", "yes"),
    [("Yes, it is", True), (" no.", False), ("not", False), ("It is yes", None), ("", None), ("<yes", True)],
)
def test_mme_parser(text: str, yes: bool | None) -> None:
    """Four characters; neither word is a wrong answer."""
    assert mme_says_yes(text) is yes


def mme_rows(categories: tuple[str, ...], images: int = 2) -> tuple[list[list[str]], list[dict[str, str]]]:
    references, meta = [], []
    for category in categories:
        for image in range(images):
            references += [["Yes"], ["No"]]
            meta += [{"category": category, "image": f"{image}.jpg"}] * 2
    return references, meta


def test_mme_at_most_200_a_category() -> None:
    """All right: 200 each, 2000 and 800 in all, 100 percent."""
    references, meta = mme_rows(PERCEPTION + COGNITION)
    scores = MME.compute([answers[0] for answers in references], references, meta)
    assert scores.headline == "perception"
    assert (scores.value, scores.values["cognition"], scores.values["total"]) == (2000, 800, 2800)
    assert scores.values["percent"] == 100
    assert scores.values["category_OCR"] == 200


def test_mme_counts_pairs() -> None:
    """Always yes: half the answers, no image: 50 + 0."""
    references, meta = mme_rows(("count",))
    scores = MME.compute(["yes"] * 4, references, meta)
    assert scores.values["category_count"] == 50
    three = MME.compute(["yes", "no", "yes", "yes"], references, meta)
    assert three.values["category_count"] == 75 + 50


def test_mme_without_all_categories_gives_no_partial_sum() -> None:
    """A sum over some categories would look like a bad score."""
    references, meta = mme_rows(PERCEPTION[:9])
    scores = MME.compute(["yes"] * len(references), references, meta)
    assert scores.headline == "percent"
    assert scores.value == 25
    assert not {"perception", "cognition", "total"} & set(scores.values)


def test_mme_percent_is_the_total_over_28() -> None:
    """One number for all: /20 for perception, /8 for cognition, /28 together."""
    references, meta = mme_rows(PERCEPTION + COGNITION, images=3)
    predictions = [random.Random(place).choice(["yes", "no"]) for place in range(len(references))]
    scores = MME.compute(predictions, references, meta)
    assert scores.values["percent"] == pytest.approx(scores.values["total"] / 28)


def test_mme_needs_both_questions_of_an_image() -> None:
    """A lost row would make accuracy+ too easy."""
    references, meta = mme_rows(("count",))
    with pytest.raises(UserError, match="image '1.jpg' of category 'count' has 1 questions"):
        MME.compute(["yes"] * 3, references[:3], meta[:3])


@given(answers=st.lists(st.sampled_from(["yes", "no", "?"]), min_size=8, max_size=8), seed=st.integers(0, 9))
def test_mme_bounds_and_order(answers: list[str], seed: int) -> None:
    """A category lies in 0..200, in any order of rows."""
    references, meta = mme_rows(("count", "color"))
    rows = list(zip(answers, references, meta, strict=True))
    values = MME.compute(answers, references, meta).values
    random.Random(seed).shuffle(rows)
    assert MME.compute([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]).values == values
    assert all(0 <= values[f"category_{name}"] <= 200 for name in ("count", "color"))
