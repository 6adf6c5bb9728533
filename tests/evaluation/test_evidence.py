"""How sure a scoreboard is: the yardstick, tasks at chance, and Rel.% without each task."""

from __future__ import annotations

import json
from statistics import fmean

import numpy as np
import pytest

from raycurate.evaluation import Column, Result, build_scoreboard
from raycurate.evaluation.evidence import (
    Answers,
    evidence_markdown,
    evidence_record,
    tasks_at_chance,
    tasks_of_few_images,
    weigh,
    yardstick_of,
)
from raycurate.evaluation.relative import relative_percent, task_improvements

COLUMNS = [Column(task, "exact_match") for task in ("coin", "easy", "hard")]
SKILL = {
    "full": {"coin": 0.5, "easy": 0.9, "hard": 0.6},
    "stratified": {"coin": 0.5, "easy": 0.8, "hard": 0.5},
    "good": {"coin": 0.5, "easy": 0.8, "hard": 0.75},
    "same": {"coin": 0.5, "easy": 0.8, "hard": 0.5},
}


@pytest.fixture(scope="module")
def answers():
    """Three seeds of four methods over 400 questions a task; `coin` is answered yes or no by luck."""
    found, generator = Answers(), np.random.default_rng(0)
    for method, skills in SKILL.items():
        for seed in range(3):
            found.add(method, seed, _rows(skills, generator), COLUMNS)
    return found


def _rows(skills, generator):
    for task, skill in skills.items():
        for i in range(400):
            yield {
                "key": f"{task}{i}",
                "turn": 0,
                "task": task,
                "image": f"{task} {i // 2}",
                "references": ["yes" if i % 2 else "no"] if task == "coin" else [f"answer {i}"],
                "scores": {"exact_match": float(generator.random() < skill), "other": 1.0},
            }


def _results(answers):
    return [
        Result(method=method, seed=seed, scores={key: fmean(items.values()) for key, items in run.items()})
        for (method, seed), run in answers.runs.items()
    ]


def _board(answers, **settings):
    return build_scoreboard(COLUMNS, _results(answers), reference="full", **settings)


def test_a_task_at_chance_is_told_by_the_reference_alone(answers):
    """`full` guesses the coin; the methods' own scores are not looked at."""
    found = tasks_at_chance(answers, COLUMNS, "full")
    assert list(found) == ["coin"]
    assert found["coin"].constant == 0.5


def test_a_task_of_few_images_is_told_with_their_number():
    """Nine images of eighteen questions are too few; ten are not; a metric without a number per row says nothing."""
    found, columns = Answers(), [Column("nine", "exact_match"), Column("ten", "exact_match"), Column("ten", "corpus")]
    for task, images in (("nine", 9), ("ten", 10)):
        rows = list(_rows({task: 0.5}, np.random.default_rng(1)))[: 2 * images]
        found.add("balanced", 0, rows, columns)
    assert tasks_of_few_images(found, columns, "balanced") == {
        "nine": "9 images are fewer than 10, which an error needs"
    }


def test_a_task_at_chance_is_left_out_of_rel_percent_and_named(answers):
    """Of every line alike, and the note says why."""
    board = _board(answers, left_out={"coin": "'full' is at chance"})
    line = next(line for line in board.lines if (line.method, line.seed) == ("good", 1))
    full = {c.key: s.mean for c, s in zip(COLUMNS, board.methods[0].scores, strict=True)}
    scores = {c.key: v for c, v in zip(COLUMNS, line.scores, strict=True)}
    expected = relative_percent(task_improvements(scores, full, COLUMNS[1:]))
    assert line.figures["rel_percent"] == pytest.approx(expected)
    assert any("left out of Rel.% in every line: coin, where 'full' is at chance" in note for note in board.notes)


def test_methods_are_compared_with_the_yardstick_row_by_row(answers):
    """A gain of half on one of two tasks is seen, no gain is not; both with how small a one would be seen."""
    found = weigh(answers, _board(answers), {"good": "stratified", "same": "stratified"}, ["coin"])
    good, same = found.differences["good"], found.differences["same"]
    assert good.tasks == ("easy/exact_match", "hard/exact_match")
    assert good.interval[0] > 0
    full = {task: good.by_task[f"{task}/exact_match"].base for task in ("easy", "hard")}
    assert full == pytest.approx({"easy": 0.9, "hard": 0.6}, abs=0.05)
    assert good.percent == pytest.approx(100 / 2 * 0.25 / 0.6, abs=6)
    assert same.interval[0] < 0 < same.interval[1]
    assert 0 < same.resolves < 20
    assert [each.clusters for each in good.by_task.values()] == [200, 200]
    text = evidence_markdown(found)
    assert "| good | stratified | +" in text
    assert "in percent of full's scores" in text
    json.dumps(evidence_record(found, tasks_at_chance(answers, COLUMNS, "full")), allow_nan=False)


def test_without_a_reference_differences_are_percent_of_the_yardstick(answers):
    """A gain of a half of its score on one of two tasks is 25 %."""
    found = weigh(answers, build_scoreboard(COLUMNS, _results(answers)), {"good": "stratified"}, ["coin"])
    assert found.differences["good"].percent == pytest.approx(25, abs=8)
    assert "in percent of the other's scores" in evidence_markdown(found)


def test_rel_percent_without_each_task_is_that_of_the_other_tasks(answers):
    """Mean over the seeds, for each task in turn."""
    board = _board(answers)
    found = weigh(answers, board, {}).rel_without["good"]
    full = {c.key: s.mean for c, s in zip(COLUMNS, board.methods[0].scores, strict=True)}
    lines = [line for line in board.lines if line.method == "good"]
    for task, value in found.items():
        left = [column for column in COLUMNS if column.task != task]
        each = [
            relative_percent(task_improvements(dict(zip([c.key for c in COLUMNS], li.scores, strict=True)), full, left))
            for li in lines
        ]
        assert value == pytest.approx(fmean(each))
    assert list(found) == ["coin", "easy", "hard"]


def test_the_yardstick_is_a_stratified_draw_where_there_is_one():
    """Else a random one; else nothing is compared, and nothing is printed."""
    assert yardstick_of(["full", "random", "stratified"]) == "stratified"
    assert yardstick_of(["coincide", "random"]) == "random"
    assert yardstick_of(["full", "coincide"]) is None
    assert evidence_markdown(weigh(Answers(), _board_of_one(), {})) == ""


def _board_of_one():
    return build_scoreboard(COLUMNS[:1], [Result(method="a", seed=0, scores={COLUMNS[0].key: 1.0})])
