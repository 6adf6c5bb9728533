"""The figures of trainings and experiments: the numbers that were measured, drawn whatever they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raycurate.charts.curves import Ranged, Series, line_chart, panel, range_chart, scatter, thinned
from raycurate.charts.figures import FIGURES
from raycurate.charts.heat import SHADES, heat_map
from raycurate.cli.main import main
from raycurate.report.boards import COMMANDS, NAMES, TABLES, boards_of, missing_of
from raycurate.report.figures import figures_of, trainings_of
from raycurate.run.store import Noun, Run

REAL = st.floats(-1e9, 1e9)


def _noun(run: Run, name: str, files: dict[str, object], config: dict[str, object] | None = None, **metrics) -> Noun:
    noun = run.noun(name, "main")
    noun.begin({"stage": name, "config": config or {}})
    for file, value in files.items():
        noun.write_json(file, value, sort_keys=False)
    noun.finish(metrics=metrics)
    return noun


def _sweep(scored: bool) -> dict[str, object]:
    trials = [
        {"method": m, "temperature": t, "ratio": r, "seed": s, "mmd2": 0.01 * (s + 1) / (2 if m == "coincide" else 1)}
        | {"rel_percent": 50.0 + 10 * s + 100 * r if scored else None}
        for m, t in (("random", None), ("coincide", 0.1))
        for r in (0.1, 0.2)
        for s in (0, 1)
    ]
    tasks = [
        {**{k: row[k] for k in ("method", "temperature", "ratio", "seed")}, "task": task, "rows": rows}
        | {"share_before": rows / 100, "share_after": 0.0 if task == "a" else 1.0}
        for row in trials
        for task, rows in (("a", 25), ("b", 75))
    ]
    return {"trials": trials, "tasks": tasks}


@pytest.mark.parametrize("scored", [True, False])
def test_a_sweep_shows_scores_distances_and_shares_at_each_budget(tmp_path, scored):
    """Means over seeds with their range; distances beside a draw's; shares as multiples of the task's own."""
    found = figures_of(_noun(Run(str(tmp_path)), "sweeps", {"results.json": _sweep(scored)}))
    assert [("10 %" in each.text, "20 %" in each.text) for each in found] == [(True, False)] * (2 + scored) + [
        (False, True)
    ] * (2 + scored)
    distance, shares = found[scored].chart, found[scored + 1].chart
    assert "coincide, T 0.1: 0.5, 0.3333 to 0.6667" in distance
    assert "random: 1, 0.6667 to 1.333" in distance
    assert ("random: 65, 60 to 70" in found[0].chart) == scored
    assert "b, random: 1.33×" in shares
    assert "a, coincide, T 0.1: 0" in shares


def test_balance_shows_what_tasks_give_their_difficulty_and_weights(tmp_path):
    """The diagonal, which is one by definition, is empty."""
    value = {
        "units": {"x": {"difficulty": 0.25}, "y": {"difficulty": 0.5}},
        "contributions": {"x": {"x": 1.0, "y": 0.3}, "y": {"x": -0.1, "y": 1.0}},
        "weights": {"x": 0.5, "y": 1.5},
        "temperature": 0.4,
    }
    matrix, difficulty, weights = figures_of(_noun(Run(str(tmp_path)), "balance", {"weights.json": value}))
    assert "<title>x, y: 0.30</title>" in matrix.chart
    assert "x, x" not in matrix.chart
    assert difficulty.chart.index("y: 0.5") < difficulty.chart.index("x: 0.25")
    assert "0.50×" in weights.chart


def test_individual_select_shows_gains_and_the_curve(tmp_path):
    """What each gain had to reach; the sum of single gains beside what was measured; no curve where none was chosen."""
    decisions = [
        {"dataset": name, "gain": gain, "chosen": gain > 1, "baseline_sd": 0.5}
        for name, gain in (("p", 2.0), ("q", 0.1))
    ]
    curve = [{"score": 40.0, "summed_gain": 0.0, "category": ""}, {"score": 41.5, "summed_gain": 2.0, "category": "c"}]
    value = {"config": {"threshold_sds": 2.0}, "baseline": {"mean": 40.0}, "decisions": decisions, "curve": curve}
    gains, path = figures_of(_noun(Run(str(tmp_path / "a")), "individual_select", {"results.json": value}))
    assert "p: 2, needed 1" in gains.chart
    assert "sum of single gains: 42" in path.chart
    assert "measured: 41.5" in path.chart
    bare = {**value, "curve": curve[:1]}
    assert len(figures_of(_noun(Run(str(tmp_path / "b")), "individual_select", {"results.json": bare}))) == 1


def test_transfer_and_scaling_have_their_figures(tmp_path):
    """A point per source cluster, a cell per pair; a point per size."""
    run = Run(str(tmp_path))
    value = {
        "sources": [{"cluster": 4, "S": 0.5, "T": 0.1}, {"cluster": 5, "S": 0.6, "T": -0.1}],
        "pairs": [{"source": 4, "target": 7, "gain": 0.25}, {"source": 5, "target": 8, "gain": -0.5}],
    }
    points, pairs = figures_of(_noun(run, "transferability", {"results.json": value}))
    assert "cluster 4: 0.5, 0.1" in points.chart
    assert "4, 7: 0.25" in pairs.chart
    assert "4, 8" not in pairs.chart
    sizes = {"sizes": [{"size": 10, "score": 1.0}, {"size": 1000, "score": 3.0}]}
    (curve,) = figures_of(_noun(run, "scaling", {"results.json": sizes}))
    assert "mean: 3" in curve.chart


def test_curves_are_of_trainings_on_this_selection(tmp_path):
    """Others are not shown; a step without a task, or with a loss that was no number, is no point."""
    run = Run(str(tmp_path))
    history = [
        {"step": 1, "loss/a": 4.0, "tokens/a": 3, "loss/b": None, "tokens/b": 9},
        {"step": 2, "loss/b": 2.0, "tokens/b": 9},
        {"step": 3, "loss/a": 1.0, "tokens/a": 3, "loss/b": 1.5, "tokens/b": 9},
    ]
    _noun(run, "models", {"history.json": history}, {"selection": "main"}, steps=3)
    ((noun, (figure,)),) = trainings_of(run, "main")
    assert f"{noun.noun}/{noun.label}" == "models/main"
    assert [name for name, _ in figure.panels] == ["b", "a"]
    assert "a: 4 at first, 1 at last" in figure.panels[1][1]
    assert trainings_of(run, "other") == []


@given(st.lists(st.tuples(REAL, REAL, st.floats(0.1, 10)), min_size=1, max_size=300), st.integers(1, 60))
def test_thinning_keeps_the_weighted_mean(points, most):
    """At most so many points; with one run per point nothing changes."""
    found = thinned(points, most)
    assert 1 <= len(found) <= most
    if len(points) <= most:
        assert [y for _, y in found] == pytest.approx([y for _, y, _ in points], rel=1e-9, abs=1e-6)
    total = sum(w for _, _, w in points)
    if most == 1:
        assert found[0][1] == pytest.approx(sum(y * w for _, y, w in points) / total, rel=1e-9, abs=1e-3)


@given(st.lists(REAL, min_size=1, max_size=20), st.booleans(), st.booleans())
@example([5e-324], True, False)
@example([1e9, 1e9 + 1e-7], False, False)
def test_marks_lie_inside_their_chart(values, zero, log):
    """Whatever the numbers: equal, tiny, huge, zero, negative; never a NaN."""
    rows = [Ranged(f"r{i}", value, value, value + 1) for i, value in enumerate(values)]
    points = [(value, -value) for value in values]
    charts = [
        range_chart(rows, "l", "u", zero=zero, log=log and not zero),
        line_chart([Series("s", points)], "l", ("x", "y"), [str(v) for v in values]),
        scatter([(x, y, "p") for x, y in points], "l", ("x", "y")),
        panel("n", [(i, abs(v)) for i, v in enumerate(values)], (1e-3, max(1.0, *map(abs, values)))),
    ]
    for chart in charts:
        assert "nan" not in chart
        width = float(re.search(r'viewBox="0 0 (\d+)', chart)[1])
        for x in re.findall(r'cx="([-\d.]+)"', chart):
            assert -1e-6 <= float(x) <= width


@given(st.lists(REAL, min_size=1, max_size=5))
def test_a_narrow_page_has_the_same_rows_and_the_axis_that_counts(values):
    """Names above the marks instead of beside them; fewer ticks, zero among them."""
    chart = range_chart([Ranged(f"r{i}", value) for i, value in enumerate(values)], "l", "u", zero=True)
    wide, narrow = chart.split('<div class="narrow">')
    assert re.findall("<title>(.*?)</title>", wide) == re.findall("<title>(.*?)</title>", narrow)
    assert [part.count('class="axis"') for part in (wide, narrow)] == [1, 1]
    assert 2 <= narrow.count('class="tick"') - 1 <= 5
    width = float(re.search(r'viewBox="0 0 (\d+)', narrow)[1])
    assert all(0 <= float(x) <= width for x in re.findall(r' x="([-\d.]+)"', narrow))


def test_a_heat_map_shades_by_the_size_of_a_number():
    """The greatest and the least take the last shades, the middle none, a missing one no cell; wide ones no text."""
    chart = heat_map(np.array([[1.0, -1.0], [0.0, np.nan]]), ["a<", "b"], ["c", "d"], "label")
    shades = [f"heat{SHADES}", f"heatm{SHADES}", "heat0"]
    assert re.findall(r'rect class="(\w+)"', chart) == 2 * shades
    assert "a&lt;" in chart
    assert "a<" not in chart
    assert 'class="cell' not in heat_map(np.ones((1, 40)), ["a"], [str(i) for i in range(40)], "label")
    assert heat_map(np.full((1, 1), np.nan), ["a"], ["b"], "label") == ""


@pytest.mark.parametrize("columns", [1, 3, 16, 40])
def test_a_heat_map_fits_wide_and_narrow_pages(columns):
    """Neither is wider than its page; cells do not overlap, names are whole or cut."""
    names = [f"a task with a name {i}" for i in range(columns)]
    for part, most in zip(
        heat_map(np.ones((2, columns)), ["a", "b"], names, "l").split('"narrow"'), (1040, 336), strict=True
    ):
        assert float(re.search(r'viewBox="0 0 (\d+)', part)[1]) <= most
        spans = [(float(x), float(w)) for x, w in re.findall(r'<rect [^>]*?x="([\d.]+)"[^>]*?width="([\d.]+)"', part)]
        assert len(spans) == 2 * columns
        assert all(x + w <= most for x, w in spans)
        for (x, w), (after, _) in zip(spans[: columns - 1], spans[1:columns], strict=True):
            assert x + w <= after


def test_every_kind_has_a_name_and_its_command_works(tmp_path):
    """The commands that the page names are those of the command line, with options that it has."""
    assert set(TABLES) | {"models"} == set(NAMES)
    assert set(FIGURES) <= set(TABLES)
    run = Run(str(tmp_path))
    _noun(run, "samples", {})
    found = missing_of(run, "main", set())
    assert len(found) == len(COMMANDS)
    (tmp_path / "FILE").touch()
    for _, command in found:
        name, *args = command.split()[1:]
        args = [str(tmp_path / arg) if arg == "FILE" else arg for arg in args]
        main.commands[name].make_context(name, args)


def test_what_was_trained_on_an_earlier_selection_is_said_to_be_out_of_date(tmp_path):
    """With the commands that make it again; of a current one nothing is said."""
    run = Run(str(tmp_path))
    selection = run.noun("selection")
    for ratio in (0.1, 0.2):
        selection.begin({"stage": "select", "config": {"ratio": ratio}})
        selection.finish()
        if ratio == 0.1:
            noun = run.noun("sweeps")
            made_from = {"selection/main": selection.require("select").fingerprint}
            noun.begin({"stage": "sweep", "config": {}, "made_from": made_from})
            noun.finish()
            assert [board.stale for board in boards_of(run, "main")] == [""]
    (board,) = boards_of(run, "main")
    assert "was made from an earlier 'selection/main', which has changed since; `raycurate " in board.stale


def test_a_board_without_its_json_has_no_figures(tmp_path):
    """As one that an older version made."""
    run = Run(str(tmp_path))
    _noun(run, "sweeps", {})
    (board,) = boards_of(run, "main")
    assert board.figures == []
    assert board.name == "Sweep"
    shutil.rmtree(tmp_path / "sweeps")
    Path(tmp_path / "run.json").write_text(json.dumps({"id": "x"}), encoding="utf-8")
    assert boards_of(run, "main") == []
