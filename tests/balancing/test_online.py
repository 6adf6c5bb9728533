"""The online weightings step by step, with tasks that come and go."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.balancing.online import WEIGHTINGS, TaskLoss, build_weighting
from raycurate.errors import UserError

TASKS = ("a", "b", "c")


def step_of(**means: float) -> dict[str, TaskLoss]:
    """Return losses of ten tokens each with these means."""
    return {task: TaskLoss(10 * mean, 10) for task, mean in means.items()}


def softmax(values: list[float]) -> list[float]:
    """Return N softmax, naively."""
    return [len(values) * math.exp(v) / math.fsum(math.exp(other) for other in values) for v in values]


def test_tla_makes_the_loss_a_mean_over_tasks() -> None:
    """Weighted by it, the normalised token loss is the mean of the present tasks' losses."""
    losses = {"a": TaskLoss(30.0, 10), "b": TaskLoss(40.0, 80), "c": TaskLoss(0.0, 0)}
    weights = build_weighting("tla", TASKS).update(losses, 0)
    total = sum(weights[task] * loss.total for task, loss in losses.items())
    tokens = sum(weights[task] * loss.tokens for task, loss in losses.items())
    assert total / tokens == pytest.approx((3.0 + 0.5) / 2)
    assert tokens == pytest.approx(90)
    assert weights["c"] == 1


def test_rlw_is_a_function_of_seed_and_step() -> None:
    """Ranks and restarts agree whatever they saw before; steps and seeds differ; draws vary about the mean."""
    first, later = build_weighting("rlw", TASKS, seed=3), build_weighting("rlw", TASKS, seed=3)
    drawn = [first.update(step_of(a=1.0), step) for step in range(50)]
    assert later.update({}, 49) == drawn[49]
    assert len({tuple(weights.values()) for weights in drawn}) == 50
    assert build_weighting("rlw", TASKS, seed=4).update({}, 49) != drawn[49]
    logs = [math.log(weights["a"] / weights["b"]) for weights in drawn]
    assert abs(sum(logs) / 50) < 5 * math.sqrt(2 / 50)  # z_a - z_b has deviation sqrt 2


def test_dwa_follows_its_windows() -> None:
    """Ones for 25 steps, ones in the older window until step 50, then the ratio of the two windows."""
    weighting = build_weighting("dwa", ("a", "b"))
    losses = {"a": [2.0 - step / 100 for step in range(60)], "b": [3.0 * 0.97**step for step in range(60)]}
    for step in range(60):
        weights = weighting.update(step_of(a=losses["a"][step], b=losses["b"][step]), step)
        ratios = []
        for task in ("a", "b"):
            history = [1.0] * 50 + losses[task][: step + 1]
            ratios.append(sum(history[-25:]) / sum(history[-50:-25]) if step >= 25 else 1.0)
        assert list(weights.values()) == pytest.approx(softmax([ratio / 2 for ratio in ratios]))
    assert weights["a"] > 1 > weights["b"]  # b falls faster


def test_igb_compares_with_the_base_of_steps_100_to_199() -> None:
    """Ones before step 200; then the current loss over the mean of those hundred, and nothing of other steps."""
    weighting = build_weighting("igb", ("a", "b"))
    for step in range(200):
        inside = step >= 100
        weights = weighting.update(step_of(a=2.0 if inside else 99.0, b=step / 100), step)
        assert weights == {"a": 1.0, "b": 1.0}
    weights = weighting.update(step_of(a=1.0, b=1.495), 200)
    assert list(weights.values()) == pytest.approx(softmax([0.5, 1.0]))
    weights = weighting.update(step_of(a=4.0, b=1.495), 201)
    assert list(weights.values()) == pytest.approx(softmax([2.0, 1.0]))


@pytest.mark.parametrize("name", ["dwa", "igb"])
@pytest.mark.parametrize("absent", [{}, {"c": TaskLoss(0.0, 0)}])
def test_absent_task_is_left_as_it_is(name: str, absent: dict[str, TaskLoss]) -> None:
    """Steps without a task do not enter its history: the weights are those of a run that never had the steps."""
    losses = step_of(a=1.0, b=2.0)
    with_gap, without = build_weighting(name, TASKS), build_weighting(name, TASKS)
    for step in range(260):
        full = {**losses, "c": TaskLoss(10 * (3 - step / 100), 10)}
        after = without.update(full, step)
        with_gap.update(full, step)
    for step in range(260, 300):
        gap = with_gap.update({**losses, **absent}, step)
        assert gap["c"] / gap["a"] == pytest.approx(after["c"] / after["a"])
    assert after["c"] != pytest.approx(1)


def test_a_task_that_never_came_weighs_as_at_its_base() -> None:
    """Ratio 1 for DWA and IGB, so a task that comes late starts like one that has not moved."""
    for name in ("dwa", "igb"):
        weighting = build_weighting(name, ("a", "b"))
        for step in range(300):
            weights = weighting.update(step_of(a=2.0), step)
        assert weights == pytest.approx({"a": 1.0, "b": 1.0})


def test_zero_loss_in_a_window_keeps_the_last_ratio() -> None:
    """A task that is learnt perfectly divides nothing by zero."""
    for name in ("dwa", "igb"):
        weighting = build_weighting(name, ("a", "b"))
        for step in range(300):
            weights = weighting.update(step_of(a=0.0, b=1.0), step)
        assert all(math.isfinite(weight) for weight in weights.values())


@given(
    name=st.sampled_from(sorted(WEIGHTINGS)),
    steps=st.lists(
        st.dictionaries(st.sampled_from(TASKS), st.tuples(st.floats(0, 1e4), st.integers(0, 1000))), max_size=6
    ),
    start=st.sampled_from([0, 98, 198, 10_000]),
)
def test_weights_are_finite_and_of_mean_one(name: str, steps, start: int) -> None:
    """After any losses all weights are finite and none is negative; the mean is 1, TLA's over tokens."""
    weighting = build_weighting(name, TASKS, seed=1)
    for place, step in enumerate(steps):
        losses = {task: TaskLoss(total if tokens else 0.0, tokens) for task, (total, tokens) in step.items()}
        weights = weighting.update(losses, start + place)
        assert tuple(weights) == TASKS
        assert all(0 <= weight < math.inf for weight in weights.values())
        tokens = sum(loss.tokens for loss in losses.values())
        if name != "tla":
            assert sum(weights.values()) == pytest.approx(3)
        elif tokens:
            assert sum(weights[task] * loss.tokens for task, loss in losses.items()) == pytest.approx(tokens)


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_wrong_losses_are_refused(name: str) -> None:
    """A name that was not given at the start, and a loss that is not finite."""
    weighting = build_weighting(name, TASKS)
    with pytest.raises(UserError, match="unknown task in the losses 'd'"):
        weighting.update(step_of(d=1.0), 0)
    for loss in (math.nan, math.inf):
        with pytest.raises(UserError, match="loss of task 'a' in step 7"):
            weighting.update(step_of(a=loss), 7)


def test_weightings_go_by_name() -> None:
    """With the nearest one for a misspelt name."""
    with pytest.raises(UserError, match=r"unknown weighting 'dwaa'. Did you mean 'dwa'\?"):
        build_weighting("dwaa", TASKS)
