"""The gate takes a challenger only on proof, the best of several, and seldom one that is no better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.evaluation.gate import choice_record, choose_method
from raycurate.evaluation.paired import Difference, TaskDifference, difference, task_difference

NONE = Difference(None, None, 0.0, 0, (), {}, {})


def found(percent: float, error: float | None, degrees: float = 30.0) -> Difference:
    """A difference with an error."""
    return Difference(percent, error, degrees, 3, ("t",), {}, {})


def test_a_clear_gain_is_taken_and_a_doubtful_one_is_not():
    """Four errors above zero pass, one does not, and the reason says the numbers."""
    choice = choose_method("balanced", {"a": found(8.0, 2.0), "b": found(2.0, 2.0)})
    assert choice.method == "a"
    assert choice.verdicts["a"].taken
    assert not choice.verdicts["b"].taken
    assert "+8.0 %" in choice.why
    assert choose_method("balanced", {"b": found(2.0, 2.0)}).why == "no challenger is proven better than 'balanced'"


def test_the_largest_of_several_proven_gains_is_taken():
    """Not the smallest p: a small sure gain loses to a larger sure one."""
    choice = choose_method("balanced", {"sure": found(3.0, 0.1), "large": found(9.0, 1.0)})
    assert choice.method == "large"
    assert "another one gains more" in choice.verdicts["sure"].why


def test_what_has_no_error_is_never_taken():
    """Too few images of a task, which is named, or nothing in common."""
    small = TaskDifference(mean=0.5, variance=None, base=1.0, by_seed=(0.5,), items=9, clusters=9)
    few = Difference(50.0, None, 8.0, 1, ("t",), {}, {"t": small})
    choice = choose_method("balanced", {"few": few, "none": NONE})
    assert choice.method == "balanced"
    assert choice.verdicts["few"].why == "fewer than 10 images in t"
    assert choice.verdicts["none"].why == "nothing can be compared: no task is left"
    assert choice.why == "'balanced' stays, as no challenger can be compared with it"
    assert choose_method("balanced", {}).why == "'balanced' has no challenger"


def test_more_challengers_need_more_proof():
    """Holm: what passes alone may fail among ten that are no better."""
    alone = {"a": found(3.7, 2.0)}
    assert choose_method("balanced", alone).method == "a"
    many = alone | {f"n{i}": found(0.0, 2.0) for i in range(9)}
    assert choose_method("balanced", many).method == "balanced"


def test_a_worse_one_is_never_taken_even_without_error():
    """A difference of exactly zero or below is no gain."""
    assert choose_method("balanced", {"same": found(0.0, 0.0), "worse": found(-5.0, 0.0)}).method == "balanced"


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.tuples(st.floats(-9, 9), st.floats(0.01, 9))))
def test_whatever_is_taken_has_a_lower_bound_above_zero(cases):
    """The one-sided p of the taken one is at most the level, so its lower bound at that level is above zero."""
    differences = {name: found(*case) for name, case in cases.items()}
    choice = choose_method("champion", differences)
    record = choice_record(choice)
    assert record["method"] == choice.method
    assert sum(verdict["taken"] for verdict in record["verdicts"].values()) == (choice.method != "champion")
    if choice.method != "champion":
        assert differences[choice.method].percent > 0
        assert differences[choice.method].p_better <= 0.05


@pytest.mark.parametrize("challengers", [1, 4])
def test_equal_methods_are_taken_about_as_seldom_as_the_level_says(challengers):
    """200 simulated gates over methods that differ by chance alone: the champion stays in at least 90 % of them."""
    rng = np.random.default_rng(7)
    keys = [(f"k{i}", 0) for i in range(60)]
    images = {key: f"image {i // 2}" for i, key in enumerate(keys)}
    wrong = 0
    for _ in range(200):
        hard = rng.random(60)

        def seeds(hard=hard):
            return [dict(zip(keys, (rng.random(60) > hard).astype(float), strict=True)) for _ in range(3)]

        champion = seeds()
        tasks = {
            f"c{i}": difference({"t": task_difference(seeds(), champion, images, higher_is_better=True)})
            for i in range(challengers)
        }
        wrong += choose_method("champion", tasks).method != "champion"
    assert wrong <= 20
