from __future__ import annotations

import math
import random
from typing import Any

import pytest

from raycurate.errors import UserError
from raycurate.evaluation import Column, Result, Scoreboard, build_scoreboard
from raycurate.evaluation.scoreboard import Statistic, summarize

A, B = Column("a", "exact_match"), Column("b", "cider")


def result(method: str, seed: int, a: float | None, b: float | None, **cost: Any) -> Result:
    scores = {column.key: value for column, value in ((A, a), (B, b)) if value is not None}
    return Result(method=method, seed=seed, scores=scores, **cost)


def board(*results: Result, **settings: Any) -> Scoreboard:
    return build_scoreboard([A, B], results, **settings)


def figures(table: Scoreboard, name: str) -> list[float | None]:
    return [line.figures[name] for line in table.lines]


def test_relative_figures_are_against_the_mean_of_the_reference_seeds() -> None:
    """Full scores 0.5 and 0.6 in two seeds: 0.55 is 100; the mean over full's own seeds is exactly 100."""
    table = board(
        result("full", 0, 0.5, 1.0), result("full", 1, 0.6, 1.0), result("half", 0, 0.55, 0.5), reference="full"
    )
    assert figures(table, "rel_percent") == pytest.approx([95.4545, 104.5455, 75], abs=1e-4)
    full = table.methods[0].figures["rel_percent"]
    assert (full.mean, full.n) == (pytest.approx(100), 2)
    assert figures(table, "delta_percent") == [None] * 3


def test_delta_and_error_are_against_the_base() -> None:
    """+20 % and -10 %: Delta 5, E 5."""
    table = board(result("single", 0, 0.5, 1.0), result("both", 0, 0.6, 0.9), base="single")
    assert figures(table, "delta_percent") == pytest.approx([0, 5])
    assert figures(table, "error_percent") == pytest.approx([0, 5])
    assert figures(table, "rel_percent") == [None, None]


def test_mean_and_sample_deviation_over_seeds() -> None:
    """n - 1 in the denominator; none for one value."""
    table = board(*(result("m", seed, value, 1.0) for seed, value in enumerate((0.2, 0.4, 0.6))))
    assert table.methods[0].scores[0] == Statistic(mean=pytest.approx(0.4), std=pytest.approx(0.2), n=3)
    assert table.methods[0].seeds == (0, 1, 2)
    assert summarize([3.0]) == Statistic(mean=3.0, std=None, n=1)
    assert summarize([None]) == Statistic(mean=None, std=None, n=0)


def test_a_missing_cell_is_shown_and_not_averaged_over() -> None:
    """The line has no Rel.%, the method's mean says n=1, and a note names the cell."""
    table = board(
        result("full", 0, 0.5, 1.0), result("m", 0, 0.5, None), result("m", 1, 0.25, 1.0), reference="full", base="full"
    )
    assert table.lines[1].scores == (0.5, None)
    assert figures(table, "rel_percent") == [100, None, 75]
    assert figures(table, "error_percent") == [0, None, 25]
    assert table.methods[1].figures["rel_percent"] == Statistic(mean=75, std=None, n=1)
    assert table.notes == ("m (seed 0) has no score in b/cider",)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_a_hole(value: float) -> None:
    """A diverged run does not spoil the table; the note shows what it scored."""
    table = board(result("full", 0, 0.5, 1.0), result("m", 0, value, 1.0), reference="full")
    assert table.lines[1].scores == (None, 1.0)
    assert table.lines[1].figures["rel_percent"] is None
    assert table.notes == (f"m (seed 0) scored {value} in a/exact_match",)


@pytest.mark.parametrize("zero", [0.0, -2.0])
def test_a_full_score_without_a_ratio_leaves_its_column_out_of_every_line(zero: float) -> None:
    """Lines stay comparable, and the note names the task."""
    table = board(result("full", 0, 0.5, zero), result("m", 0, 0.25, 1.0), reference="full")
    assert figures(table, "rel_percent") == [100, 50]
    assert len(table.notes) == 1
    assert f"'full' scores {zero:g} in b/cider" in table.notes[0]
    assert "left out of Rel.% in every line" in table.notes[0]


def test_no_column_with_a_ratio_gives_no_figure() -> None:
    """Not zero and not 100."""
    table = board(result("full", 0, 0.0, 0.0), result("m", 0, 0.25, 1.0), reference="full")
    assert figures(table, "rel_percent") == [None, None]


def test_a_reference_that_lacks_a_column_gives_no_figure() -> None:
    """A ratio over the other columns only would not be the figure of the board."""
    table = board(result("full", 0, 0.5, None), result("m", 0, 0.25, 1.0), reference="full")
    assert figures(table, "rel_percent") == [None, None]
    assert "'full' has no score in b/cider: no Rel.% anywhere" in table.notes


def test_metrics_of_a_task_are_averaged_within_it() -> None:
    """Two metrics of one task weigh as much as the one of the other."""
    columns = [Column("a", "x"), Column("a", "y"), Column("b", "x")]
    full = Result(method="full", seed=0, scores={column.key: 1.0 for column in columns})
    other = Result(method="m", seed=0, scores={("a", "x"): 0.5, ("a", "y"): 0.5, ("b", "x"): 1.0})
    table = build_scoreboard(columns, [full, other], reference="full")
    assert table.lines[1].figures["rel_percent"] == 75


def test_cost_share_is_of_the_mean_cost_of_the_reference() -> None:
    """10 and 20 hours for full: 3 hours are 20 %; an unknown cost stays unknown."""
    table = board(
        result("full", 0, 1, 1, cost=10.0, wall_seconds=60.0),
        result("full", 1, 1, 1, cost=20.0),
        result("m", 0, 1, 1, cost=3.0, wall_seconds=7.0),
        result("n", 0, 1, 1),
        reference="full",
    )
    assert figures(table, "cost_share_percent") == pytest.approx([66.6667, 133.3333, 20, None], abs=1e-4)
    assert figures(table, "wall_seconds") == [60, None, 7, None]
    unknown = board(result("full", 0, 1, 1), result("m", 0, 1, 1, cost=3.0), reference="full")
    assert unknown.notes == ("'full' has no cost above zero: no cost share",)


def test_the_order_of_results_changes_no_number() -> None:
    """The same lines and summaries, sorted by (method, seed)."""
    results = [result(f"m{seed % 3}", seed, 0.1 + seed / 7, 1 / (seed + 1), cost=seed + 0.1) for seed in range(9)]
    one = board(*results, reference="m0", base="m1")
    shuffled = random.Random(1).sample(results, len(results))
    two = board(*shuffled, reference="m0", base="m1")
    assert sorted(one.lines, key=lambda line: line.seed) == sorted(two.lines, key=lambda line: line.seed)
    means = [{m.method: (m.scores, m.figures) for m in table.methods} for table in (one, two)]
    assert means[0] == means[1]


def test_what_is_given_is_checked() -> None:
    """No column, twice the same, unknown names."""
    with pytest.raises(UserError, match="at least one column"):
        build_scoreboard([], [])
    with pytest.raises(UserError, match=r"column \('a', 'exact_match'\) is given twice"):
        build_scoreboard([A, A], [])
    with pytest.raises(UserError, match=r"result \('m', 1\) is given twice"):
        board(result("m", 1, 1, 1), result("m", 1, 2, 2))
    with pytest.raises(UserError, match="scores of 'm' 'a/exact_mach'. Did you mean 'a/exact_match'"):
        build_scoreboard([A], [Result(method="m", seed=0, scores={("a", "exact_mach"): 1.0})])
    with pytest.raises(UserError, match="unknown method on the scoreboard 'ful'. Did you mean 'full'"):
        board(result("full", 0, 1, 1), reference="ful")


def test_an_empty_board_is_legal() -> None:
    """Columns but no results yet."""
    assert board().lines == ()
