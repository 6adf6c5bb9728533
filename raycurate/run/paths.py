"""What a user gives as a path means the files that it meant where it was given, on whatever machine they are read.

The types here make a setting absolute when its config is made: against the directory of the command, or of the Python
program. What is no path stays as it is: URIs, hub ids, names of things that come with the package.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator

from raycurate.run.filesystem import absolute

MODEL_FILES = ("config.json", "adapter_config.json")
RUN_MODELS = "models"
RUN_BALANCE = "balance"


def absolute_model(model: str) -> str:
    """A model's folder as an absolute path; 'tiny', a hub id and ``models/LABEL`` of a run as they are.

    ``a/b`` may be a folder, a hub id, or a model of the run: it is the folder where there is one, but ``models/b`` only
    where that folder holds a model.
    """
    if model == "tiny":
        return model
    parts = model.rstrip("/").split("/")
    if model[:1] in (".", "~", "/") or len(parts) > 2:  # no hub id has two slashes
        return absolute(model)
    found = os.path.isdir(model)
    if parts[0] == RUN_MODELS and len(parts) == 2:
        found = any(os.path.isfile(f"{model}/{name}") for name in MODEL_FILES)
    return absolute(model) if found or not model else model


def image_roots(images: str | None) -> list[str]:
    """The root of image paths, and behind it the folders that links in it may lead to: ``ROOT:FOLDER:FOLDER``."""
    if images is None:
        return []
    return [images] if "://" in images or os.path.isdir(images) else images.split(":")


def absolute_images(images: str) -> str:
    """The root of image paths and the folders behind it as absolute paths."""
    return ":".join(absolute(each) for each in image_roots(images))


def absolute_task_map(name: str) -> str:
    """A task map's file as an absolute path; the name of a shipped one as it is."""
    return absolute(name) if "/" in name or name.lower().endswith((".yaml", ".yml")) or not name else name


def absolute_weights(source: Any) -> Any:
    """A file of task weights as an absolute path; ``balance/LABEL`` of a run as it is, unless that is a file."""
    if not isinstance(source, str):
        return source
    parts = source.split("/")
    of_run = len(parts) == 2 and parts[0] == RUN_BALANCE and not os.path.isfile(source)
    return source if of_run else absolute(source)


def balance_of(source: Any) -> str | None:
    """The label of a run's `balance` that task weights are of; None for those of a file or by hand."""
    noun, _, label = source.partition("/") if isinstance(source, str) else ("", "", "")
    return label if noun == RUN_BALANCE else None


def absolute_deepspeed(name: str) -> str:
    """A DeepSpeed JSON file as an absolute path; 'zero2' and 'zero3' as they are."""
    return absolute(name) if "/" in name or name.endswith(".json") or not name else name


def absolute_command(command: str) -> str:
    """A command line in which the words (or ``--option=`` values) that name files are absolute paths.

    Its program is one only where it is given with a slash, as in a shell.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # told by whoever runs it
        return command
    made = [_absolute_word(word, program=number == 0) for number, word in enumerate(words)]
    return command if made == words else shlex.join(made)


def _absolute_word(word: str, *, program: bool) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if program and "/" not in word:
        return word
    return f"{option}{equals}{absolute(value)}" if value and os.path.isfile(os.path.expanduser(value)) else word


def absolute_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of another stage, which makes its config of them later and maybe on another machine."""
    return {
        name: SETTINGS[name](value) if name in SETTINGS and isinstance(value, str) else value
        for name, value in values.items()
    }


SETTINGS: dict[str, Callable[[str], Any]] = {
    "annotations": absolute,
    "command": absolute_command,
    "deepspeed": absolute_deepspeed,
    "images": absolute_images,
    "model": absolute_model,
    "scratch": absolute,
    "task_map": absolute_task_map,
    "task_weights": absolute_weights,
}
"""The settings that are paths, of the stages whose settings other configs hold."""

LocalPath = Annotated[str, AfterValidator(absolute)]
ImagesPath = Annotated[str, AfterValidator(absolute_images)]
ModelName = Annotated[str, AfterValidator(absolute_model)]
TaskMapName = Annotated[str, AfterValidator(absolute_task_map)]
DeepSpeedName = Annotated[str, AfterValidator(absolute_deepspeed)]
TaskWeightsSource = Annotated[dict[str, float] | str, AfterValidator(absolute_weights)]
Command = Annotated[str, AfterValidator(absolute_command)]
Settings = Annotated[dict[str, Any], AfterValidator(absolute_settings)]
