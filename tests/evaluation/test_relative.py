"""CoTBal's published table, COINCIDE's published row, and the readings that do not give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.evaluation.relative import (
    Column,
    delta_percent,
    error_percent,
    improvement,
    relative_percent,
    task_improvements,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "cotbal_academic_7b.json").read_text())
COLUMNS = [
    Column(task, f"metric{place}")
    for task, places in zip(GOLDEN["tasks"], GOLDEN["metric_groups_by_task"], strict=True)
    for place in places
]
# arXiv 2406.10995, Table 1: full finetuning, and COINCIDE at 20 %.
BENCHMARKS = ["VQAv2", "GQA", "VizWiz", "SQA-I", "TextVQA", "POPE", "MME", "MMBench-en", "MMBench-cn", "LLaVA-Bench"]
FULL = [79.1, 63.0, 47.8, 68.4, 58.2, 86.4, 1476.9, 66.1, 58.9, 67.9]
COINCIDE = [76.5, 59.8, 46.8, 69.2, 55.6, 86.1, 1495.6, 63.1, 54.5, 67.3]


def by_key(values: list[float]) -> dict[tuple[str, str], float]:
    return {column.key: value for column, value in zip(COLUMNS, values, strict=True)}


@pytest.mark.parametrize("row", GOLDEN["rows"])
def test_cotbal_rows_have_the_printed_delta_and_error(row: str) -> None:
    """All 13 rows of the Academic benchmark, within the rounding of the table."""
    printed = GOLDEN["rows"][row]
    changes = task_improvements(by_key(printed["metrics"]), by_key(GOLDEN["stl_metrics"]), COLUMNS)
    assert len(changes) == 7
    assert delta_percent(changes) == pytest.approx(printed["delta_percent"], abs=0.02)
    assert error_percent(changes) == pytest.approx(printed["error_percent"], abs=0.02)


def test_rejected_readings_of_the_equations() -> None:
    """A flat mean over the metrics gives 9.99 instead of 7.30; clipping each metric gives E 0.17 instead of 0.10."""
    score, base = by_key(GOLDEN["rows"]["EW"]["metrics"]), by_key(GOLDEN["stl_metrics"])
    changes = {column.key: improvement(score[column.key], base[column.key]) for column in COLUMNS}
    assert sum(changes.values()) / len(changes) * 100 == pytest.approx(9.99, abs=0.005)
    clipped = {task: [] for task in GOLDEN["tasks"]}
    for (task, _), change in changes.items():
        clipped[task].append(max(0, -change))
    assert 100 * sum(sum(parts) / len(parts) for parts in clipped.values()) / 7 == pytest.approx(0.17, abs=0.005)


def test_coincide_relative_performance() -> None:
    """Rel. 97.4 of the paper, from its own row; full finetuning is 100."""
    columns = [Column(task, "score") for task in BENCHMARKS]
    full, coincide = ({(task, "score"): v for task, v in zip(BENCHMARKS, row, strict=True)} for row in (FULL, COINCIDE))
    assert relative_percent(task_improvements(coincide, full, columns)) == pytest.approx(97.4, abs=0.05)
    assert relative_percent(task_improvements(full, full, columns)) == 100


def test_lower_is_better_turns_the_sign() -> None:
    """Half the error is 50 % better, whatever else the task has."""
    columns = [Column("t", "loss", higher_is_better=False), Column("t", "accuracy")]
    changes = task_improvements(
        {("t", "loss"): 1.0, ("t", "accuracy"): 0.4}, {("t", "loss"): 2.0, ("t", "accuracy"): 0.4}, columns
    )
    assert changes == {"t": 0.25}
    assert relative_percent(changes) == 125


@pytest.mark.parametrize("reference", [0.0, -1.0, float("nan")])
def test_a_reference_without_a_ratio_names_the_task(reference: float) -> None:
    """Zero, negative and undefined scores are no unit of measure."""
    with pytest.raises(UserError, match="metric 'm' of task 't': a relative score needs a reference above zero"):
        task_improvements({("t", "m"): 1.0}, {("t", "m"): reference}, [Column("t", "m")])


def test_a_missing_score_names_the_task() -> None:
    """It is not left out of the mean."""
    with pytest.raises(UserError, match="no score for metric 'm' of task 't'"):
        task_improvements({}, {("t", "m"): 1.0}, [Column("t", "m")])
    with pytest.raises(UserError, match="no reference score for metric 'm' of task 't'"):
        task_improvements({("t", "m"): 1.0}, {}, [Column("t", "m")])


VALUES = st.floats(0.01, 100)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), VALUES, VALUES, st.booleans()), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_order_scale_and_bounds(rows: list[tuple[int, float, float, bool]], order) -> None:
    """The same figures in any order of columns and in any unit; E is at least 0 and at least -Delta."""
    columns = [Column(f"t{row[0]}", f"m{place}", row[3]) for place, row in enumerate(rows)]
    scores = {column.key: row[1] for column, row in zip(columns, rows, strict=True)}
    base = {column.key: row[2] for column, row in zip(columns, rows, strict=True)}
    changes = task_improvements(scores, base, columns)
    delta, error = delta_percent(changes), error_percent(changes)
    assert error >= 0
    assert error >= -delta - 1e-9
    order.shuffle(columns)
    again = task_improvements(scores, base, columns)
    assert (delta_percent(again), error_percent(again)) == (delta, error)
    doubled = task_improvements({k: 2 * v for k, v in scores.items()}, {k: 2 * v for k, v in base.items()}, columns)
    assert delta_percent(doubled) == pytest.approx(delta, abs=1e-9)
