"""Answers to scores by task, annotations, and what external evaluators write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.evaluation.external import named_files, read_scores, run_evaluator
from raycurate.evaluation.scoring import Annotation, parse_annotations, score_answers


def _answer(task: str, prediction: str, reference: str, source_id: str = "a", turn: int = 0, image: str = "i"):
    return {
        "task": task,
        "prediction": prediction,
        "reference": reference,
        "source_id": source_id,
        "turn": turn,
        "image": image,
    }


def test_every_task_gets_its_metric_and_rows_keep_their_order():
    """Interleaved tasks are scored apart; a row's numbers stand beside it under the same names."""
    rows = [
        _answer("easy", "Yes.", "yes"),
        _answer("refcoco", "[0, 0, 1, 1]", "[0, 0, 1, 1]"),
        _answer("easy", "no", "yes"),
        _answer("refcoco", "none", "[0, 0, 1, 1]"),
    ]
    scores = score_answers(rows)
    assert scores.tasks["easy"] == {"exact_match": 0.5}
    assert scores.tasks["refcoco"] == {"iou": 0.5, "iou.mean_iou": 0.5, "iou.parsed": 0.5}
    assert scores.rows[0] == {"exact_match": 1.0}
    assert scores.rows[3] == {"iou": 0.0, "iou.mean_iou": 0.0}
    assert scores.headlines == {"easy": {"exact_match": True}, "refcoco": {"iou": True}}


def test_annotations_give_more_right_answers_and_meta():
    """An annotation replaces the row's reference by id and turn; meta reaches the metric."""
    rows = [_answer("easy", "cat", "dog", "7"), _answer("easy", "cat", "dog", "7", turn=1)]
    text = '{"id": 7, "references": ["dog", "cat"]}\n\n{"id": "8", "meta": {"category": "x"}}'
    annotations = parse_annotations(text, "f")
    assert annotations["8", 0] == Annotation(meta={"category": "x"})
    scores = score_answers(rows, None, annotations)
    assert scores.tasks == {"easy": {"exact_match": 0.5}}
    assert scores.references == [("dog", "cat"), ("dog",)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "line 1"),
        ('{"references": []}', "id"),
        ('{"id": 1, "references": []}', "at least one"),
        ('{"id": 1}\n{"id": 1}', "twice"),
        ("[1]", "line 1"),
    ],
)
def test_wrong_annotations_are_named_by_line(text, found):
    """A broken line of the annotations is one readable error."""
    with pytest.raises(UserError, match=found):
        parse_annotations(text, "file.jsonl")


def test_annotations_that_fit_no_row_are_an_error():
    """A wrong id column is found instead of being ignored."""
    with pytest.raises(UserError, match="no annotation fits"):
        score_answers([_answer("t", "a", "a")], None, {("zz", 0): Annotation(references=("a",))})


def test_no_answers_are_an_error():
    """A test set of which every row was rejected has no scores."""
    with pytest.raises(UserError, match="no answers to score"):
        score_answers([])


def test_scores_of_external_evaluators_are_read():
    """lmms-eval's names lose their filter, standard errors and text are left out."""
    value = {"results": {"mme": {"alias": "mme", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 1, "b": True}}}
    assert read_scores(value) == {"mme": {"acc": 0.5, "f1,strict": 1.0}}
    assert read_scores({"pope": {"f1": 0.8}, "config": {"x": "y"}}) == {"pope": {"f1": 0.8}}
    assert read_scores([1]) == read_scores({"results": 3}) == read_scores({"a": {"b": float("nan")}}) == {}


def _command(code: str, arguments: str = "{model} {output}") -> str:
    return f'{sys.executable} -c "{code}" {arguments}'


def test_an_external_evaluator_is_given_the_model_and_its_newest_json_is_read(tmp_path):
    """Placeholders are filled in and scores found in a folder below the output."""
    code = (
        "import sys,json,pathlib; o=pathlib.Path(sys.argv[2])/'x'; o.mkdir();"
        "(o/'r.json').write_text(json.dumps({'t':{'m':len(sys.argv[1])}}))"
    )
    assert run_evaluator(_command(code), "/model", tmp_path) == {"t": {"m": 6.0}}


def test_scores_may_be_printed(tmp_path):
    """A command without {output} prints its JSON."""
    code = "import json; print(json.dumps({'t': {'m': 1}}))"
    assert run_evaluator(_command(code, "{model}"), "m", tmp_path) == {"t": {"m": 1.0}}


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("no-such-program-here {model}", "not installed"),
        ("'open {model}", "cannot be split"),
        (_command("import sys; print('too bad'); sys.exit(3)"), "exit code 3.*too bad"),
        (_command("print('hello')"), "wrote no scores.*0 JSON files"),
        (_command("import time; time.sleep(60)"), "longer than command_seconds=1"),
    ],
)
def test_what_goes_wrong_with_an_external_evaluator_is_said(tmp_path, command, found):
    """Each failure of the command is one readable error with what it printed last."""
    with pytest.raises(UserError, match=found):
        run_evaluator(command, "m", tmp_path, seconds=1.0 if "sleep" in command else None)


def test_the_files_that_a_command_names_are_found(tmp_path, monkeypatch):
    """Its program by PATH, scripts and files as words or behind =; what it makes itself, folders and flags are none."""
    for name in ("judge", "run.py", "tasks.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / "judge").chmod(0o755)
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = f"judge run.py --tasks={tmp_path}/tasks.json --model {{model}} --out {{output}}/x.json --dir folder mme"
    assert named_files(command) == [tmp_path / "judge", Path("run.py"), tmp_path / "tasks.json"]
    assert named_files("no-such-program --model {model}") == []
    with pytest.raises(UserError, match="cannot be split into words"):
        named_files("judge 'a")
