"""CoTBal's arithmetic: the published weights, a naive reference, and what must hold for any scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raycurate.balancing.config import BalanceConfig
from raycurate.balancing.cotbal import FLOOR, balance, smallest_temperature, weigh
from raycurate.balancing.scores import ScoreTable, parse_scores
from raycurate.errors import UserError
from tests.balancing.golden_table import GOLDEN, golden_csv

NAMES = {"out": "out_N", "in": "in_N", "inter": "inter_N", "diff": "difficulty_N", "final": "final_N"}


def table_of(scores: dict[str, list[float]], tasks: tuple[str, ...]) -> ScoreTable:
    """Return a table from one list of scores per probe."""
    cells = {(p, t): v for p, row in scores.items() for t, v in zip(tasks, row, strict=True) if not math.isnan(v)}
    return ScoreTable(tasks, tuple(scores), cells)


def made(mini_N: np.ndarray, gain_N: np.ndarray, matrix_NN: np.ndarray, order: list[int]) -> ScoreTable:
    """Return a table whose contributions are `matrix_NN` off the diagonal, with its tasks in `order`."""
    matrix_NN = matrix_NN.copy()
    np.fill_diagonal(matrix_NN, 1)
    scores = {"mini": mini_N[order].tolist()}
    scores.update({f"t{i}": (mini_N + matrix_NN[i] * gain_N)[order].tolist() for i in order})
    return table_of(scores, tuple(f"t{i}" for i in order))


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_from_the_published_vectors(name: str) -> None:
    """All 35 weights of the academic benchmark, to the fourth decimal."""
    vectors = (GOLDEN["contribution_out"], GOLDEN["contribution_in"], GOLDEN["validation_ratio_mini_over_full"])
    out_N, in_N, ratio_N = (np.array(values) for values in vectors)
    weights = weigh(out_N, in_N, 1 - ratio_N, temperature=GOLDEN["temperature"])
    assert np.round(getattr(weights, NAMES[name]), 4).tolist() == GOLDEN["weights"][name]


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_from_a_score_table(name: str) -> None:
    """The same 35 from a table with those contributions."""
    result = balance(parse_scores(golden_csv()), BalanceConfig())
    assert np.round(getattr(result.weights, NAMES[name]), 4).tolist() == GOLDEN["weights"][name]
    assert result.concerns == ()


def test_every_equation_by_hand() -> None:
    """Two tasks whose numbers can be followed: who gives, who takes, who is hard."""
    table = table_of({"mini": [0.5, 0.2], "a": [0.6, 0.3], "b": [0.55, 0.4]}, ("a", "b"))
    result = balance(table, BalanceConfig(temperature=1.0))
    np.testing.assert_allclose(result.contribution_NN, [[1, 0.5], [0.5, 1]])  # 0.1 / 0.2 and 0.05 / 0.1
    np.testing.assert_allclose(result.difficulty_N, [1 / 6, 0.5])
    np.testing.assert_allclose(result.weights.inter_N, [1, 1])
    hard = 2 / (1 + math.exp(1 / 6 - 0.5))
    assert result.by_task == {"a": pytest.approx(0.5 + (2 - hard) / 2), "b": pytest.approx(0.5 + hard / 2)}


def naive(table: ScoreTable, temperature: float) -> dict[str, float]:
    """Equations 3 to 11 as sums over scores, without arrays."""
    tasks, score = table.tasks, table.scores
    n = len(tasks)

    def give(i: str, j: str) -> float:
        return (score[i, j] - score["mini", j]) / (score[j, j] - score["mini", j])

    def softmax(values: dict[str, float]) -> dict[str, float]:
        total = math.fsum(math.exp(value / temperature) for value in values.values())
        return {task: n * math.exp(value / temperature) / total for task, value in values.items()}

    out = softmax({i: math.fsum(give(i, j) for j in tasks if j != i) / (n - 1) for i in tasks})
    inward = softmax({i: -math.fsum(give(j, i) for j in tasks if j != i) / (n - 1) for i in tasks})
    hard = softmax({i: 1 - score["mini", i] / score[i, i] for i in tasks})
    return {task: 0.25 * out[task] + 0.25 * inward[task] + 0.5 * hard[task] for task in tasks}


COUNTS = st.integers(2, 6)
MINI, GAIN, GIVEN = st.floats(0.05, 1), st.floats(0.05, 1), st.floats(-2, 2)


@st.composite
def tables(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(COUNTS)
    parts = ((count, MINI), (count, GAIN), ((count, count), GIVEN))
    return tuple(draw(arrays(np.float64, shape, elements=values)) for shape, values in parts)


@given(parts=tables(), temperature=st.floats(0.2, 5), random=st.randoms(use_true_random=False))
def test_any_table(parts, temperature: float, random) -> None:
    """The naive equations, mean 1, and the same weight for a task wherever it stands and whatever its unit."""
    count = len(parts[0])
    order = list(range(count))
    table = made(*parts, order)
    result = balance(table, BalanceConfig(temperature=temperature))
    assert result.by_task == pytest.approx(naive(table, temperature), rel=1e-9)
    for vector in NAMES.values():
        assert getattr(result.weights, vector).mean() == pytest.approx(1, abs=1e-12)
    random.shuffle(order)
    assert balance(made(*parts, order), BalanceConfig(temperature=temperature)).by_task == pytest.approx(
        result.by_task, rel=1e-9
    )
    unit_N = np.array([random.choice([0.01, 7.0, 300.0]) for _ in range(count)])
    scaled = made(parts[0] * unit_N, parts[1] * unit_N, parts[2], list(range(count)))
    assert balance(scaled, BalanceConfig(temperature=temperature)).by_task == pytest.approx(result.by_task, rel=1e-8)


@given(parts=tables())
def test_temperature_limits(parts) -> None:
    """A high temperature makes all weights 1; a low one leaves each softmax to its largest value."""
    out_N, in_N = parts[2].mean(axis=1), parts[2].mean(axis=0)
    hot = weigh(out_N, in_N, parts[0], temperature=1e7)
    np.testing.assert_allclose(hot.final_N, 1, atol=1e-5)
    values = np.sort(out_N)
    assume(values[-1] - values[-2] > 1e-3)
    cold = weigh(out_N, in_N, parts[0], temperature=1e-5)
    assert cold.out_N[out_N.argmax()] == pytest.approx(len(out_N))


@given(parts=tables())
def test_auto_temperature_is_the_smallest_inside(parts) -> None:
    """Its weights are in bounds; no smaller temperature of a scan is, down to the floor."""
    vectors = parts[2].mean(axis=1), parts[2].mean(axis=0), parts[0]

    def inside(temperature: float) -> bool:
        final_N = weigh(*vectors, temperature=temperature).final_N
        return bool(final_N.min() >= 0.5 and final_N.max() <= 2)

    found = smallest_temperature(*vectors)
    assert found >= FLOOR
    assert inside(found)
    if found > FLOOR:
        assert not inside(found * (1 - 1e-6))
        assert not any(inside(FLOOR * 1.01**step) for step in range(int(math.log(found / FLOOR, 1.01))))


def test_auto_temperature_of_the_published_table() -> None:
    """Below the paper's 0.5, and one final weight is on a bound there."""
    result = balance(parse_scores(golden_csv()), BalanceConfig(temperature="auto"))
    final_N = result.weights.final_N
    assert FLOOR < result.weights.temperature < 0.5
    assert min(abs(final_N.max() - 2), abs(final_N.min() - 0.5)) < 1e-6


def test_equal_tasks_have_equal_weights_at_any_temperature() -> None:
    """Nothing to tell apart: the floor is inside, and the weights are 1."""
    table = table_of({"mini": [0.5, 0.5], "a": [0.6, 0.55], "b": [0.55, 0.6]}, ("a", "b"))
    result = balance(table, BalanceConfig(temperature="auto"))
    assert result.weights.temperature == FLOOR
    assert result.by_task == {"a": 1.0, "b": 1.0}


def test_shares_of_the_mixture() -> None:
    """With all of it on one part the final weights are that part."""
    table = parse_scores(golden_csv())
    for place, name in enumerate(("out", "in", "diff")):
        alpha = tuple(float(place == other) for other in range(3))
        final_N = balance(table, BalanceConfig(alpha=alpha)).weights.final_N
        assert np.round(final_N, 4).tolist() == GOLDEN["weights"][name]
    with pytest.raises(ValueError, match="must sum to 1"):
        BalanceConfig(alpha=(0.5, 0.5, 0.5))


def test_negative_and_near_zero_denominators_are_told() -> None:
    """Both are in the result with their number, the formula is not clipped, and strict makes them an error."""
    tasks = ("a", "b", "c")
    table = table_of(
        {"mini": [0.5, 0.5, 0.5], "a": [0.4, 0.6, 0.5], "b": [0.3, 0.502, 0.5], "c": [0.5, 0.5, 0.8]}, tasks
    )
    result = balance(table, BalanceConfig())
    assert [(c.unit, c.gain) for c in result.concerns] == [("a", pytest.approx(-0.25)), ("b", pytest.approx(1 / 251))]
    assert "'a' gains -25 %" in str(result.concerns[0])
    assert "is negative" in str(result.concerns[0])
    assert "'b' gains 0.398 %" in str(result.concerns[1])
    assert "near zero" in str(result.concerns[1])
    np.testing.assert_allclose(result.contribution_NN, [[1, 50, 0], [2, 1, 0], [0, 0, 1]], atol=1e-9)
    assert result.difficulty_N[0] == pytest.approx(-0.25)
    with pytest.raises(UserError, match="'a' gains -25 %.*'b' gains"):
        balance(table, BalanceConfig(strict=True))


def test_zero_denominator_is_an_error() -> None:
    """It names the task and the way out, which works."""
    table = table_of({"mini": [0.5, 0.4, 0.3], "a": [0.6, 0.4, 0.3], "b": [0.5, 0.4, 0.4], "c": [0.6, 0.4, 0.6]},
                     ("a", "b", "c"))  # fmt: skip
    with pytest.raises(UserError, match="'b' scores the same .*--fixed 'b=1'"):
        balance(table, BalanceConfig())
    result = balance(table, BalanceConfig(fixed={"b": 1.0, "text": 0.7}))
    assert result.units == ("a", "c")
    assert {task: result.by_task[task] for task in ("b", "text")} == {"b": 1.0, "text": 0.7}


def test_one_task_has_nothing_to_balance() -> None:
    """One column, or all others of fixed weight."""
    with pytest.raises(UserError, match="at least 2 tasks, got 1"):
        balance(table_of({"mini": [0.5], "a": [0.6]}, ("a",)), BalanceConfig())
    two = table_of({"mini": [0.5, 0.5], "a": [0.6, 0.5], "b": [0.5, 0.6]}, ("a", "b"))
    with pytest.raises(UserError, match="at least 2 tasks, got 1"):
        balance(two, BalanceConfig(fixed={"b": 2.0}))
