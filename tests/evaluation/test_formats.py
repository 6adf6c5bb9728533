from __future__ import annotations

import csv
import io
import json

import pytest

from raycurate.evaluation import Column, Result, Scoreboard, build_scoreboard, to_csv, to_json, to_markdown
from raycurate.evaluation.scoreboard import FIGURES

COLUMNS = [Column("caption", "cider"), Column("box", "iou"), Column("box", "loss", higher_is_better=False)]


def make() -> Scoreboard:
    def run(method: str, seed: int, scores: tuple[float | None, ...], hours: float) -> Result:
        found = {column.key: value for column, value in zip(COLUMNS, scores, strict=True) if value is not None}
        return Result(method=method, seed=seed, scores=found, wall_seconds=3600 * hours, cost=hours)

    results = [
        run("full", 0, (1.0, 0.5, 2.0), 10),
        run("coincide", 0, (0.9, 0.5, 2.0), 3),
        run("coincide", 1, (1.1, None, 2.0), 3),
    ]
    return build_scoreboard(COLUMNS, results, reference="full", cost_unit="GPU hours")


def test_markdown() -> None:
    """Methods, single runs, holes with their n, directions, notes; nothing for figures that no line has."""
    assert to_markdown(make()).splitlines() == [
        "| method | seeds | caption | box/iou | box/loss (lower) | Rel.% of full | wall clock (s) | cost (GPU hours) "
        "| cost % of full |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| full | 1 | 1.000 | 0.5000 | 2.000 | 100.0 | 36000.0 | 10.00 | 100.0 |",
        "| coincide | 2 | 1.000 +- 0.141 | 0.5000 (n=1) | 2.000 +- 0.000 | 95.00 (n=1) | 10800.0 +- 0.0 "
        "| 3.000 +- 0.000 | 30.00 +- 0.00 |",
        "",
        "| method | seed | caption | box/iou | box/loss (lower) | Rel.% of full | wall clock (s) | cost (GPU hours) "
        "| cost % of full |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| full | 0 | 1.000 | 0.5000 | 2.000 | 100.0 | 36000.0 | 10.00 | 100.0 |",
        "| coincide | 0 | 0.9000 | 0.5000 | 2.000 | 95.00 | 10800.0 | 3.000 | 30.00 |",
        "| coincide | 1 | 1.100 | - | 2.000 | - | 10800.0 | 3.000 | 30.00 |",
        "",
        "- coincide (seed 1) has no score in box/iou",
    ]


def test_csv_has_a_row_per_run_and_three_per_method() -> None:
    """A hole is an empty field; numbers come back exactly."""
    rows = list(csv.DictReader(io.StringIO(to_csv(make()))))
    assert [(row["method"], row["seed"], row["statistic"]) for row in rows] == [
        ("full", "0", "run"),
        ("coincide", "0", "run"),
        ("coincide", "1", "run"),
        *[("full", "", part) for part in ("mean", "std", "n")],
        *[("coincide", "", part) for part in ("mean", "std", "n")],
    ]
    assert [row["box/iou"] for row in rows] == ["0.5", "0.5", "", "0.5", "", "1", "0.5", "", "1"]
    assert float(rows[6]["caption/cider"]) == make().methods[1].scores[0].mean
    assert set(FIGURES) <= rows[0].keys()


def test_json_is_the_board_with_null_for_holes() -> None:
    """Directions, lines, statistics and notes."""
    record = json.loads(to_json(make()))
    assert record["columns"][2] == {"task": "box", "metric": "loss", "higher_is_better": False}
    assert record["lines"][2]["scores"] == [1.1, None, 2.0]
    assert record["lines"][2]["rel_percent"] is None
    assert record["methods"][1]["rel_percent"] == {"mean": pytest.approx(95), "std": None, "n": 1}
    assert (record["reference"], record["base"], record["cost_unit"]) == ("full", None, "GPU hours")
    assert record["notes"] == ["coincide (seed 1) has no score in box/iou"]


def test_names_cannot_break_a_table_or_start_a_formula() -> None:
    """Pipes, line ends, HTML and links in Markdown; formulas in CSV."""
    columns = [Column('=HYPERLINK("x")', "iou"), Column("a|b\n<b>[c](d)", "iou")]
    results = [Result(method="@m", seed=0, scores={column.key: 1.0 for column in columns})]
    board = build_scoreboard(columns, results)
    heading, marks, row = to_markdown(board).splitlines()
    assert heading.endswith(r'| =HYPERLINK("x") | a\|b &lt;b&gt;\[c\](d) |')
    assert row == "| @m | 1 | 1.000 | 1.000 |"
    head, run, *_ = csv.reader(io.StringIO(to_csv(board)))
    assert head[3] == '\'=HYPERLINK("x")/iou'
    assert run[0] == "'@m"


def test_a_board_without_results_is_a_heading() -> None:
    """All three formats."""
    board = build_scoreboard(COLUMNS, [])
    assert len(to_markdown(board).splitlines()) == 2
    assert len(to_csv(board).splitlines()) == 1
    assert json.loads(to_json(board))["lines"] == []
