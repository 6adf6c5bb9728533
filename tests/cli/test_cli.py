"""The command line as a user meets it: help, results, wrong places and surroundings; one line of error, exit code 1."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.cli.options import command_config
from raycurate.cli.results import print_result
from raycurate.cli.settings import stage_configs
from raycurate.cli.support import ReadableCommand
from raycurate.ray_session import session_folder
from raycurate.run.store import Run
from raycurate.selection import METHODS

NOTEBOOK = """
import sys
from raycurate.errors import UserError
from raycurate.stages.finetune import finetune
from raycurate.run.store import Run
from raycurate.training.config import FinetuneConfig
try:
    finetune(Run(sys.argv[1]), FinetuneConfig(model="/no/such/model", selection=None))
except UserError as error:
    print(error)
"""


def invoke(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that is printed."""
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def process(*arguments: str, **environment: str) -> tuple[int, str]:
    """The same in a process of its own, with these variables and no cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_every_setting_of_every_stage_can_be_listed():
    """From the configs themselves: a new setting is in the list at once."""
    code, overview = invoke("settings")
    assert code == 0
    for stage, config in stage_configs().items():
        assert stage in overview
        code, text = invoke("settings", stage.replace("_", "-"))
        assert code == 0
        listed = {line.split()[0] for line in text.splitlines() if line.strip()}
        assert set(config.model_fields) <= listed
    assert "Did you mean 'evaluate'?" in invoke("settings", "evalute")[1]


def test_select_names_its_methods_in_its_help():
    """Not only in the error for a wrong one."""
    code, text = invoke("select", "--help")
    words = " ".join(text.split())
    assert code == 0
    assert f"{', '.join(METHODS)}; or package.module:object" in words


@pytest.fixture
def made(tmp_path) -> Run:
    """A run with a trained model and its scores."""
    run = Run(str(tmp_path / "run"))
    model = run.noun("models", "long-label-r0.1")
    model.begin({"config": {"method": "lora", "merge": True, "model": "tiny"}})
    model.finish(metrics={"loss": 1.25, "steps": 12})
    scores = run.noun("scores", "long-label-r0.2")
    scores.begin({"config": {}})
    scores.write_json("scores.json", {"count": {"exact_match": 0.5}, "box[1]": {"iou": 0.25, "iou.mean_iou": 0.3}})
    scores.finish(metrics={"headlines": {"count": {"exact_match": True}, "box[1]": {"iou": True}}})
    return run


def test_results_are_printed_with_their_place(made, capsys):
    """The loss and the folder that loads after a training, every task's score after an evaluation."""
    for noun, label in (("models", "long-label-r0.1"), ("scores", "long-label-r0.2")):
        print_result(made, made.noun(noun, label).require("x"))
    text = capsys.readouterr().out
    assert "loss 1.2500 over 12 steps" in text
    assert f"{made.uri}/models/long-label-r0.1/final (LoRA adapter of tiny)" in text
    assert f"{made.uri}/models/long-label-r0.1/merged" in text
    assert [line.split() for line in text.splitlines() if "0.25" in line] == [["box[1]", "iou", "0.2500"]]
    assert "mean_iou" not in text


@pytest.mark.parametrize("columns", ["30", "80"])
def test_status_never_cuts_a_label(made, monkeypatch, columns):
    """Two labels that begin alike stay apart in a narrow terminal and in a pipe."""
    monkeypatch.setenv("COLUMNS", columns)
    code, text = invoke("status", made.uri)
    assert code == 0
    assert "models/long-label-r0.1 " in text
    assert "scores/long-label-r0.2 " in text


def test_what_is_no_run_directory_is_said_and_not_made_one(tmp_path):
    """A wrong path, a file, an empty folder, a folder of something else; a stage must not make a folder of a typo."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    for name, told in (
        ("none", "there is no run directory at"),
        ("file", "is a file"),
        ("empty", "is no run directory: it is empty"),
        ("photos", "it holds cat.png, and nothing that a stage has made"),
    ):
        code, text = invoke("status", str(tmp_path / name))
        assert (code, text.count("error:")) == (1, 1)
        assert told in " ".join(text.split())
    for command in (
        ["extract"],
        ["select"],
        ["finetune"],
        ["evaluate", "--model", "tiny", "--data", "test"],
        ["sweep"],
    ):
        code, text = invoke(command[0], str(tmp_path / "none"), *command[1:])
        assert code == 1
        assert "there is no run directory at" in " ".join(text.split())
    assert not (tmp_path / "none").exists()


def test_a_metric_without_a_task_is_not_dropped(made):
    """Not even beside others that are right."""
    code, text = invoke("evaluate", made.uri, "--model", "tiny", "--data", "test", "--metrics", "a=cider,b")
    assert code == 1
    assert "--metrics 'a=cider,b' is neither 'auto' nor TASK=METRIC pairs" in " ".join(text.split())


def test_several_sources_are_a_usage_error_that_says_how(tmp_path):
    """What a shell makes of an unquoted glob; nothing is read."""
    code, text = invoke("ingest", "a.json", "b.json", "c.json", "--out", str(tmp_path / "run"))
    assert code == 2
    assert "one SOURCE is read, 3 are given (a.json, b.json, ...). Quote a glob" in " ".join(text.split())
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_is_not_there_is_told_in_seconds(made):
    """By the variable that names it, and without Ray's own log."""
    code, text = process("-m", "raycurate.cli", "select", made.uri, RAY_ADDRESS="127.0.0.1:9")
    assert code == 1
    assert "no Ray cluster answers at '127.0.0.1:9' of RAY_ADDRESS" in text
    assert text.count("\n") == 1


def test_paths_of_any_letters_in_a_c_locale(made, tmp_path):
    """A machine without a UTF-8 locale reads and prints the same names."""
    other = Path(made.uri).rename(tmp_path / "läuft-選択")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    code, text = process("-m", "raycurate.cli", "status", str(other), **locale)
    assert (code, "scores/long-label-r0.2" in text) == (0, True), text
    code, text = process("-m", "raycurate.cli", "status", f"{other}-ü", **locale)
    assert (code, "läuft-選択-ü" in text) == (1, True), text


def test_a_notebook_needs_neither_a_session_nor_a_home_nor_a_short_tmpdir(tmp_path):
    """A stage that trains starts Ray by itself, its sockets in a short folder, its files in TMPDIR."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    code, text = process("-c", NOTEBOOK, str(tmp_path / "run"), HOME="/proc/none", TMPDIR=str(long))
    assert code == 0, text
    assert "there is no model folder /no/such/model" in text
    assert "Traceback" not in text


def test_a_folder_too_long_for_sockets_is_replaced(monkeypatch, tmp_path):
    """Ray's own choice where it fits."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert session_folder() is None
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    assert session_folder() == "/tmp/ray"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full: free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "the rights to this one"),
        (OSError(errno.EROFS, "Read-only file system"), "can only be read: give another place"),
        (
            OSError("When listing buckets: AWS Error NETWORK_CONNECTION during ListBuckets operation"),
            "AWS_ENDPOINT_URL",
        ),
    ],
)
def test_errors_of_the_system_say_what_to_do(error, told, capsys):
    """A full or read-only disk and a store that does not answer are told with a way out, not by a class's name."""

    @click.command(cls=ReadableCommand)
    def fails():
        raise error

    with pytest.raises(SystemExit) as ended:
        fails.main([], standalone_mode=False)
    text = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 1
    assert told in text
    assert type(error).__name__ not in text


def test_an_envelope_is_an_option_with_or_without_a_value():
    """Alone it has its defaults; one bound may be changed beside it; a wrong one is named."""
    command = main.commands["select"]
    for given, found in (
        (["--envelope"], (0.5, 2.0, 0.3)),
        (["--envelope", "0.4,3"], (0.4, 3.0, 0.3)),
        (["--envelope", "0,inf,0"], (0.0, None, 0.0)),
        (["--envelope", "--set", "envelope.cap=4"], (0.5, 4.0, 0.3)),
        (["--set", "envelope.floor=0.1"], (0.1, 2.0, 0.3)),
    ):
        with command.make_context("select", [*given, "--ratio", "0.3", "."]) as context:
            params = {name: value for name, value in context.params.items() if name not in ("run", "overrides")}
            made = command_config(params, context.params["overrides"])
        assert (made.envelope.floor, made.envelope.cap, made.envelope.random_share) == found
    code, text = invoke("select", ".", "--envelope", "1,2,3,4")
    assert code == 1
    assert "--envelope: 1, 2, 3, 4 are more than floor, cap, random_share" in text
