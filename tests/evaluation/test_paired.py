"""Paired differences: naive references, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raycurate.evaluation.paired import LEAST_CLUSTERS, clustered_mean, difference, holm, task_difference


def _items(values):
    return {(f"k{i}", 0): float(value) for i, value in enumerate(values)}


def _task(first, second, clusters=None, **settings):
    images = {} if clusters is None else {(f"k{i}", 0): f"image {c}" for i, c in enumerate(clusters)}
    settings = {"higher_is_better": True, **settings}
    return task_difference([_items(v) for v in first], [_items(v) for v in second], images, **settings)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 30)), min_size=1, max_size=60),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_mean_and_variance_are_those_of_a_loop(rows, higher):
    """Cluster by cluster in plain Python; none below the least number of clusters."""
    first, second, clusters = zip(*rows, strict=True)
    found = _task([first], [second], clusters, higher_is_better=higher)
    signed = [(a - b) * (1 if higher else -1) for a, b in zip(first, second, strict=True)]
    mean = math.fsum(signed) / len(signed)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.clusters == len(set(clusters))
    if len(set(clusters)) < LEAST_CLUSTERS:
        assert found.variance is None
        return
    sums = [math.fsum(d - mean for d, own in zip(signed, clusters, strict=True) if own == c) for c in set(clusters)]
    count = len(sums)
    assert found.variance == pytest.approx(math.fsum(s * s for s in sums) * count / (count - 1) / len(rows) ** 2)


def test_clusters_of_one_question_give_the_usual_error():
    """s^2 / n, with the sample's variance."""
    values = np.random.default_rng(0).normal(size=50)
    mean, variance = clustered_mean(values, np.arange(50))
    assert mean == pytest.approx(values.mean())
    assert variance == pytest.approx(values.var(ddof=1) / 50)


def test_questions_on_one_image_are_not_many_witnesses():
    """The same 20 answers five times each: the error stays that of 20 answers."""
    values = np.random.default_rng(1).normal(size=20)
    _, alone = clustered_mean(values, np.arange(20))
    _, copied = clustered_mean(np.repeat(values, 5), np.repeat(np.arange(20), 5))
    assert copied == pytest.approx(alone)


def test_only_questions_that_both_answered_in_every_seed_count():
    """A question that one run rejected is compared nowhere; without any there is no difference."""
    first = [{("a", 0): 1.0, ("b", 0): 1.0}, {("a", 0): 1.0, ("c", 0): 1.0}]
    second = [{("a", 0): 0.0, ("b", 0): 0.0}, {("a", 0): 0.5}]
    found = task_difference(first, second, {}, higher_is_better=True)
    assert (found.items, found.mean, found.by_seed, found.base) == (1, 0.75, (1.0, 0.5), 0.25)
    assert task_difference([{("a", 0): 1.0}], [{("b", 0): 1.0}], {}, higher_is_better=True) is None


def test_tasks_weigh_the_same_and_the_seeds_count_once_more():
    """D and V of the formula, by hand, over two tasks and three seeds."""
    generator = np.random.default_rng(2)
    tasks = {}
    for name, rows in (("x", 40), ("y", 90)):
        first, second = generator.random((3, rows)), generator.random((3, rows))
        tasks[name] = _task(first, second)
    whole = difference(tasks)
    expected = 50 * sum(each.mean / each.base for each in tasks.values())
    by_seed = [50 * sum(each.by_seed[s] / each.base for each in tasks.values()) for s in range(3)]
    rows = 2500 * sum(each.variance / each.base**2 for each in tasks.values())
    runs = np.var(by_seed, ddof=1) / 3
    assert whole.percent == pytest.approx(expected)
    assert whole.error == pytest.approx(math.sqrt(rows + runs))
    assert whole.degrees == pytest.approx((rows + runs) ** 2 / (rows**2 / (39 + 89) + runs**2 / 2))
    low, high = whole.interval
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, whole.degrees) * whole.error)
    assert whole.resolves == pytest.approx((1.959964 + 0.841621) * whole.error)


def test_a_task_that_cannot_be_compared_is_named_and_few_images_give_no_interval():
    """A base of zero has no ratio; nine images are too few for an error, which is then refused for the whole."""
    good, nothing = _task([[1.0] * 20], [[0.5] * 20]), _task([[1.0] * 20], [[0.0] * 20])
    found = difference({"good": good, "nothing": nothing, "lost": None})
    assert found.tasks == ("good",)
    assert sorted(found.left_out) == ["lost", "nothing"]
    assert found.percent == pytest.approx(100)
    few = difference({"good": good, "few": _task([[1.0] * 20], [[0.5] * 20], [i % 9 for i in range(20)])})
    assert (few.error, few.interval, few.resolves, few.p_better) == (None, None, None, None)
    assert few.percent == pytest.approx(100)
    lost = difference({"lost": None})
    assert (lost.percent, lost.interval, lost.tasks) == (None, None, ())
    assert list(lost.left_out) == ["lost"]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_equal_methods_are_rarely_told_apart(noise):
    """Of 300 pairs that differ by nothing but each training's luck, at most twice the promised 5 % look different."""
    generator, missed = np.random.default_rng(3), 0
    for _ in range(300):
        skill = generator.random(60)
        luck = generator.normal(0, noise, (2, 3, 1))
        runs = [(generator.random((2, 3, 60)) < skill + luck).astype(float) for _ in range(2)]
        found = difference({f"t{i}": _task(first, second) for i, (first, second) in enumerate(runs)})
        low, high = found.interval
        missed += not low <= 0 <= high
    assert missed <= 30


def test_a_real_gain_is_seen():
    """Fifteen points on 200 questions, three seeds."""
    generator = np.random.default_rng(4)
    skill = generator.random(200) * 0.8
    first = (generator.random((3, 200)) < skill + 0.15).astype(float)
    found = difference({"t": _task(first, (generator.random((3, 200)) < skill).astype(float))})
    assert found.interval[0] > 0
    assert found.p_better < 0.05


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_step_down_of_its_definition(p_values):
    """Claims at a level: the smallest at level / m, the next at level / (m - 1), and so on, until one fails."""
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        claims, left = set(), sorted(p_values, key=lambda name: (p_values[name], name))
        while left and p_values[left[0]] * len(left) <= level:
            claims.add(left.pop(0))
        assert {name for name, p in adjusted.items() if p <= level} == claims
