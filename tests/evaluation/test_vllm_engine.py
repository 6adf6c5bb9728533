"""Another engine in an environment of its own answers as the built-in one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.evaluation.config import EvaluateConfig
from raycurate.evaluation.vllm_engine import vllm_version
from raycurate.settings import make_config
from raycurate.stages.evaluate import evaluate
from tests.nouns import read_all
from tests.training.made_runs import write_run

SETTINGS = {"model": "tiny", "data": "main", "max_new_tokens": 4, "dtype": "float32", "window_rows": 5}
RUN_IT = "import sys, runpy; sys.path.insert(0, {0!r}); a = sys.argv[2:]; "
RUN_IT += "exec(a[1]) if a[0] == '-c' else runpy.run_path(a[0], run_name='__main__')"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An interpreter whose environment has `engine/vllm.py` as the package vllm 1.0."""
    place = tmp_path_factory.mktemp("environment")
    (place / "vllm.py").write_text((Path(__file__).parent / "engine" / "vllm.py").read_text(encoding="utf-8"))
    (place / "vllm-1.0.dist-info").mkdir()
    (place / "vllm-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 1.0\n")
    (place / "vllm-1.0.dist-info" / "top_level.txt").write_text("vllm\n")
    program = place / "python"
    words = (sys.executable, "-c", RUN_IT.format(str(place)))
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), 9)


def _answered(run, **settings):
    config = make_config(EvaluateConfig, {**SETTINGS, **settings})
    evaluate.__wrapped__(run, config, in_process=True)  # type: ignore[attr-defined]  # no cluster for a few rows
    return read_all(run.noun("predictions", config.label)).to_pylist()


def test_the_stage_answers_as_with_the_built_in_engine(run, python):
    """Rows of one and two turns, with and without an image, in two shards; the version is part of what was made."""
    assert _answered(run, label="other", engine="vllm", engine_python=python) == _answered(run, label="own")
    assert run.noun("predictions", "other").require("evaluate").description["inputs"]["engine"] == "vllm 1.0"


def test_what_the_engine_cannot_load_is_one_readable_error(run, python):
    """With the first line of its own error, and what may help."""
    with pytest.raises(UserError, match=r"vLLM cannot load .*: ValueError: no such implementation\. Its messages"):
        _answered(run, label="none", engine="vllm", engine_python=python, engine_options={"model_impl": "unknown"})


@pytest.mark.parametrize("program", [None, "/no/such/python"])
def test_an_environment_without_it_is_named(program):
    """Before anything is loaded."""
    with pytest.raises(UserError, match=f"engine is 'vllm', and {program or sys.executable} on .* has none"):
        vllm_version(program)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"engine_options": {"seed": 1}}, "give engine: vllm"),
        ({"engine": "vllm", "data": None, "command": "x {model}"}, "leave engine out"),
    ],
)
def test_settings_that_do_not_go_together(settings, found):
    """Options without their engine, and an engine beside an external evaluator."""
    with pytest.raises(UserError, match=found):
        make_config(EvaluateConfig, {**SETTINGS, **settings})
