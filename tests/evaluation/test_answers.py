from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.evaluation import METRICS
from raycurate.evaluation.answers import normalize_answer, soft_accuracy


def score(metric: str, prediction: str, *answers: str) -> float:
    return METRICS[metric].compute([prediction], [list(answers)]).value


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        (" Yes. ", "yes", 1),
        ("two", "TWO.", 1),
        ("yes..", "yes", 0),
        ("yes..", "yes.", 0),
        ("yes .", "yes", 0),
        ("yes!", "yes", 0),
        ("", "yes", 0),
        (".", "", 1),
    ],
)
def test_exact_match_drops_one_trailing_period(prediction: str, answer: str, right: int) -> None:
    """Strip, lower, one period from either side; nothing else is forgiven."""
    assert score("exact_match", prediction, answer) == right


def test_exact_match_takes_any_reference_and_gives_rows() -> None:
    """The value is the mean of the rows."""
    scores = METRICS["exact_match"].compute(["b", "c", "c"], [["a", "b"], ["a", "b"], ["C."]])
    assert scores.rows["exact_match"] == [1, 0, 1]
    assert scores.value == 2 / 3


@pytest.mark.parametrize("answers", range(1, 13))
def test_soft_accuracy_is_the_leave_one_out_mean(answers: int) -> None:
    """The closed form against the definition, for every number of matches and of people."""
    needed = min(3, answers - 1)
    for matches in range(answers + 1):
        votes = [True] * matches + [False] * (answers - matches)
        left = [votes[:out] + votes[out + 1 :] for out in range(answers)]
        slow = math.fsum(min(1, sum(rest) / needed) for rest in left) / answers if answers > 1 else float(matches)
        assert soft_accuracy(matches, answers) == pytest.approx(slow, abs=1e-15)


def test_soft_accuracy_of_ten_answers_has_the_published_values() -> None:
    """0, .3, .6, .9, then 1."""
    assert [soft_accuracy(matches, 10) for matches in range(11)] == [0, 0.3, 0.6, 0.9] + [1] * 7


def test_vqa_accuracy_counts_normalised_answers() -> None:
    """Two of ten say the same in other words."""
    assert score("vqa_accuracy", "Two dogs!", "2 dogs", "the two dogs.", *["cats"] * 8) == 0.6


def test_vqa_accuracy_of_a_single_answer_is_right_or_wrong() -> None:
    """GQA-like references."""
    assert score("vqa_accuracy", "A dog.", "dog") == 1
    assert score("vqa_accuracy", "", "dog") == 0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat", "cat"),
        ("yes/no", "yes no"),
        ("yes / no", "yes no"),
        ("1,000", "1000"),
        ("1,000 (approx)", "1000 approx"),
        ("2.50", "2.50"),
        ("3 p.m.", "3 pm"),
        ("None", "0"),
        ("ten", "10"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("its", "its"),
        ("a\n\tb", "b"),
        ("t-shirt", "t shirt"),
        ("", ""),
        ("the", ""),
    ],
)
def test_normalize_answer(text: str, normal: str) -> None:
    """Marks, digits, articles, contractions, as the module says."""
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("-95", "-100", 1),
        ("95", "-100", 0),
        ("10%", "0.1", 1),
        ("10%", "10", 0),
        ("0.001", "0", 0),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("Yes", "yes", 1),
        ("Yes.", "yes", 0),
        ("nan", "nan", 1),
        ("inf", "100", 0),
        ("", "100", 0),
        ("%", "5", 0),
        ("1,000", "1000", 0),
    ],
)
def test_relaxed_accuracy(prediction: str, answer: str, right: int) -> None:
    """Within 5 % of a number other than zero; everything else must be equal."""
    assert score("relaxed_accuracy", prediction, answer) == right


TEXTS = st.text(alphabet="aAtheTwo 10%.,'-!\n", max_size=12)


@pytest.mark.parametrize("name", ["exact_match", "vqa_accuracy", "relaxed_accuracy"])
@given(rows=st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_bounds_and_order(name: str, rows: list[tuple[str, list[str]]]) -> None:
    """Values lie in 0..1 and depend on no order; the reference itself is always right."""
    metric = METRICS[name]
    values = set()
    for order in itertools.islice(itertools.permutations(rows), 6):
        values.add(metric.compute([row[0] for row in order], [row[1][::-1] for row in order]).value)
    assert len(values) == 1
    assert 0 <= values.pop() <= 1
    assert metric.compute([row[0] for row in rows], [[row[0]] for row in rows]).value == 1


@given(text=TEXTS)
def test_normalising_ignores_case(text: str) -> None:
    """Upper and lower case give the same answer."""
    assert normalize_answer(text.upper()) == normalize_answer(text.lower())


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("e\u0301te\u0301", "\u00e9t\u00e9", 1),
        ("\u732b\u3002", "\u732b", 1),
        ("\uff22", "b", 1),
        ("\uff11\uff12", "12", 1),
        ("ete", "\u00e9t\u00e9", 0),
    ],
)
@pytest.mark.parametrize("metric", ["exact_match", "vqa_accuracy", "relaxed_accuracy"])
def test_the_same_letters_of_another_keyboard_are_the_same(metric, prediction, answer, right) -> None:
    """Letters and their marks apart, full-width forms and the full-width period; another letter stays another."""
    if metric == "relaxed_accuracy":  # which forgives no period
        prediction = prediction.removesuffix("\u3002")
    assert score(metric, prediction, answer) == right


@pytest.mark.parametrize(
    "prediction",
    ["B", "b", "(B)", "B.", "[b]", "B: a dog", "(B) a dog", "The answer is (B).", "The answer is B", "Answer: B",
     "I think the correct answer is **B**.", "The best option is (B) since it barks.", "So I take (B).",
     "Not A, the answer is B.", "\uff22\u3002", "\uff08\uff22\uff09", "It must be B"],
)  # fmt: skip
@pytest.mark.parametrize("answer", ["B", "(B)", "b.", "B. a dog"])
def test_choice_reads_the_letter_of_an_option(prediction, answer) -> None:
    """However the answer says it, and however the dataset writes it."""
    assert score("choice", prediction, answer) == 1
    assert score("choice", prediction, "C") == 0


@pytest.mark.parametrize("prediction", ["", "dog", "A dog or a cat", "(A) or (B)", "B or C", "none of them", "I see a"])
def test_choice_names_no_option_where_none_or_several_are_named(prediction) -> None:
    """Wrong whatever is right, and not counted as parsed."""
    for letter in "ABCI":
        scores = METRICS["choice"].compute([prediction], [[letter]])
        assert scores.values == {"accuracy": 0.0, "parsed": 0.0}
