"""Scores from an evaluator that is a program of its own, for example lmms-eval.

The command is split as a shell would split it, but no shell runs it. `{model}` becomes the folder of the merged
checkpoint and `{output}` an empty folder. Of the JSON files that it leaves there (or, where the command does not name
`{output}`, of what it prints) the newest with scores counts: `{task: {metric: number}}`, or that under "results", as
lmms-eval and lm-eval-harness write it. Of their `metric,filter` names the filter "none" and the standard errors are
dropped; what is not a number is left out.

    lmms_eval --model llava_hf --model_args pretrained={model} --tasks mme,pope --output_path {output}

The files that the command names, its program and scripts before all, are part of what determines the scores
(`named_files`). Limits: what these import or read by themselves is not looked at.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycurate.errors import UserError

TaskScores = dict[str, dict[str, float]]
_SHOWN_LINES = 5


def run_evaluator(command: str, model: str | Path, output: Path, *, seconds: float | None = None) -> TaskScores:
    """Run `command` for the checkpoint in `model` and return its scores.

    Args:
        command: with `{model}` and, usually, `{output}`.
        model: folder of a checkpoint that transformers loads.
        output: an empty folder; `command.log` in it holds what the program printed.
        seconds: longest time; None for no limit.

    Raises:
        UserError: the program is missing, fails, takes too long or writes no scores.
    """
    call = [word.replace("{model}", str(model)).replace("{output}", str(output)) for word in _words(command)]
    log = output / "command.log"
    try:
        with log.open("wb") as stream:
            code = subprocess.run(
                call, stdout=stream, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
    except FileNotFoundError:
        raise UserError(f"the evaluator '{call[0]}' is not installed or not in PATH on the machine it ran on") from None
    except PermissionError:
        raise UserError(f"the evaluator '{call[0]}' is not a program that can be run") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"the evaluator ran longer than command_seconds={seconds:g}. {_last_lines(log)}") from None
    if code:
        raise UserError(f"the evaluator ended with exit code {code}. {_last_lines(log)}")
    return _newest_scores(output, log, named="{output}" in command)


def named_files(command: str) -> list[Path]:
    """The program of a command, as a shell finds it, and each other word, or what is behind its =, that is a file.

    Raises:
        UserError: a command that cannot be split into words.
    """
    program, *others = _words(command) or [""]
    values = [text for word in others for text in (word, word.partition("=")[2]) if text]
    named = [shutil.which(program), *(text for text in values if "{model}" not in text and "{output}" not in text)]
    return [path for text in named if text and (path := Path(text).expanduser()).is_file()]


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"the command {command!r} cannot be split into words: {error}") from None


def _newest_scores(output: Path, log: Path, *, named: bool) -> TaskScores:
    files = sorted(output.rglob("*.json"), key=lambda path: (path.stat().st_mtime, str(path)), reverse=True)
    for path in files:
        if scores := read_scores(_parsed(path.read_text(encoding="utf-8", errors="replace"))):
            return scores
    if not named and (scores := read_scores(_parsed(log.read_text(encoding="utf-8", errors="replace")))):
        return scores
    looked = f"{len(files)} JSON files in its {{output}} folder" if named else "what it printed"
    raise UserError(
        f"the evaluator wrote no scores: {looked} must hold {{task: {{metric: number}}}}. {_last_lines(log)}"
    )


def read_scores(value: Any) -> TaskScores:
    """Numbers by task and metric in a parsed JSON value; empty where it has none."""
    if not isinstance(value, Mapping):
        return {}
    tasks = value.get("results", value)
    found = {}
    for task, metrics in tasks.items() if isinstance(tasks, Mapping) else ():
        numbers = {}
        for name, number in metrics.items() if isinstance(metrics, Mapping) else ():
            metric, _, kind = str(name).partition(",")
            if _is_number(number) and not metric.endswith("_stderr"):
                numbers[metric if kind in ("", "none") else f"{metric},{kind}"] = float(number)
        if numbers:
            found[str(task)] = numbers
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return "It printed last: " + " | ".join(lines[-_SHOWN_LINES:]) if lines else "It printed nothing."
