from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.evaluation import METRICS

HYPOTHESES = ["a cat sits on the mat", "a dog runs in a park", "people at a table"]
REFERENCES = [
    ["a cat sits on the mat", "the cat is on a mat"],
    ["a dog runs in the park", "dog running in park"],
    ["two men play chess"],
]
SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6).map(" ".join)
TASK = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=3)), min_size=2, max_size=5)


def test_cider_golden() -> None:
    """The library's published numbers for three images."""
    scores = METRICS["cider"].compute(HYPOTHESES, REFERENCES)
    assert scores.rows["cider"] == pytest.approx([5.957426, 3.796967, 0], abs=1e-6)
    assert scores.value == pytest.approx(3.251464, abs=1e-6)


def test_cider_is_on_raw_text() -> None:
    """No tokenizer: a period or a capital makes another word."""
    raw = METRICS["cider"].compute(["A cat sits on the mat.", *HYPOTHESES[1:]], REFERENCES)
    assert raw.rows["cider"][0] < 5


def test_cider_of_one_image_is_zero() -> None:
    """All document frequencies equal the number of images, so every idf is 0."""
    assert METRICS["cider"].compute(["a cat"], [["a cat"]]).value == 0


def test_cider_of_an_empty_prediction_is_zero() -> None:
    """The other rows are not touched."""
    scores = METRICS["cider"].compute(["", *HYPOTHESES[1:]], REFERENCES)
    assert scores.rows["cider"] == pytest.approx([0, 3.796967, 0], abs=1e-6)


def test_cider_without_a_word_in_any_reference_is_a_user_error() -> None:
    """One empty reference is legal, a task of them is not."""
    with pytest.raises(UserError, match="every reference of this task is empty"):
        METRICS["cider"].compute(["a", "b"], [[""], [" "]])
    assert METRICS["cider"].compute(["a", "b"], [[""], ["b"]]).rows["cider"][0] == 0


@given(task=TASK)
def test_cider_against_the_formula(task: list[tuple[str, list[str]]]) -> None:
    """The library's number is the formula's, in 0..10, in any order of rows."""
    if not any(answer for _, answers in task for answer in answers):
        return
    scores = METRICS["cider"].compute([row[0] for row in task], [row[1] for row in task])
    assert scores.rows["cider"] == pytest.approx(naive_cider(task), abs=1e-9)
    assert -1e-9 <= scores.value <= 10 + 1e-9
    assert (
        METRICS["cider"].compute([row[0] for row in task[::-1]], [row[1] for row in task[::-1]]).value == scores.value
    )


def naive_cider(task: list[tuple[str, list[str]]]) -> list[float]:
    """CIDEr-D written from its formula."""
    seen = Counter(
        gram for _, answers in task for gram in {g for a in answers for n in range(1, 5) for g in grams(a, n)}
    )

    def weigh(text: str, n: int) -> dict[tuple[str, ...], float]:
        return {g: c * (math.log(len(task)) - math.log(max(1, seen[g]))) for g, c in grams(text, n).items()}

    def similarity(text: str, answer: str, n: int) -> float:
        one, two = weigh(text, n), weigh(answer, n)
        norms = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in two.values()))
        dot = sum(min(v, two.get(g, 0)) * two.get(g, 0) for g, v in one.items())
        # The library measures length in bigrams.
        gap = sum(grams(text, 2).values()) - sum(grams(answer, 2).values())
        return (dot / norms if norms else 0) * math.exp(-(gap**2) / 72)

    return [
        10 * sum(similarity(text, answer, n) for answer in answers for n in range(1, 5)) / 4 / len(answers)
        for text, answers in task
    ]


def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def test_gleu_golden() -> None:
    """One sentence, then two: counts add up, the rows' GLEUs do not average to it."""
    gleu = METRICS["gleu"]
    assert gleu.compute(["the cat sat on the mat"], [["the cat is on the mat"]]).value == 0.5
    both = gleu.compute(["the cat sat on the mat", "a big dog"], [["the cat is on the mat"], ["a dog"]])
    assert both.value == pytest.approx(0.458333, abs=1e-6)
    assert both.rows["gleu"] == pytest.approx([0.5, 1 / 3])


def test_gleu_of_empty_texts_is_zero() -> None:
    """An empty prediction, and empty on both sides."""
    assert METRICS["gleu"].compute([""], [["a b"]]).value == 0
    assert METRICS["gleu"].compute([""], [[""]]).value == 0


@given(task=TASK)
def test_gleu_bounds_and_order(task: list[tuple[str, list[str]]]) -> None:
    """In 0..1, the same in any order of rows; 1 for a reference itself."""
    gleu = METRICS["gleu"]
    value = gleu.compute([row[0] for row in task], [row[1] for row in task]).value
    assert 0 <= value <= 1
    assert gleu.compute([row[0] for row in task[::-1]], [row[1] for row in task[::-1]]).value == value
    spoken = [(text, answers) for text, answers in task if text]
    if spoken:
        assert gleu.compute([text for text, _ in spoken], [[*answers, text] for text, answers in spoken]).value == 1
