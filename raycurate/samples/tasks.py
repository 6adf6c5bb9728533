"""Name the task of a row from where its image lies and what its prompt says, for sources that have no task column.

A task map is an ordered list of rules in YAML; the first rule whose conditions all hold names the task:

    rules:
      - {prefix: ocr_vqa/, task: ocrvqa}
      - {prefix: coco/, prompt_contains: "Answer with the option's letter", task: aokvqa}
      - {text_only: true, task: sharegpt}

``prefix`` is compared with the path of the first image, ``prompt_contains`` with all turns of the user, letter by
letter.
"""

from __future__ import annotations

import functools
import posixpath
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycurate.errors import UserError, unknown_name
from raycurate.run.filesystem import exists, read_bytes, resolve

MAX_TASK_CHARS = 256
UNKNOWN_TASK = "unknown"


class TaskRule(BaseModel):
    """One rule; at least one condition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(min_length=1, max_length=MAX_TASK_CHARS)
    prefix: str | None = Field(None, min_length=1)
    text_only: bool = False
    prompt_contains: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _has_one_condition(self) -> TaskRule:
        if self.prefix is None and self.prompt_contains is None and not self.text_only:
            raise ValueError("a rule needs 'prefix', 'prompt_contains' or 'text_only: true'")
        if self.prefix is not None and self.text_only:
            raise ValueError("'prefix' and 'text_only' exclude each other")
        return self

    def matches(self, path: str | None, prompt: str, has_images: bool) -> bool:
        """Whether every condition holds."""
        if self.text_only and has_images:
            return False
        if self.prefix is not None and not (path or "").startswith(self.prefix):
            return False
        return self.prompt_contains is None or self.prompt_contains in prompt


class TaskMap(BaseModel):
    """Ordered rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[TaskRule, ...] = Field(min_length=1)

    def task_of(self, path: str | None, prompt: str, has_images: bool) -> str | None:
        """The task of the first rule that matches, or None."""
        return next((rule.task for rule in self.rules if rule.matches(path, prompt, has_images)), None)


def shipped_task_maps() -> list[str]:
    """Names of the maps that come with the package."""
    folder = resources.files("raycurate.samples") / "task_maps"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


@functools.lru_cache(maxsize=8)
def load_task_map(name: str) -> TaskMap:
    """A shipped map by name, or the user's own by the path or URI of a YAML file. ``UserError`` for a wrong one."""
    if posixpath.splitext(name)[1].lower() in (".yaml", ".yml") or "/" in name:
        filesystem, path = resolve(name)
        if not exists(filesystem, path):
            raise UserError(f"the task map {name} does not exist")
        text = read_bytes(filesystem, path)
    elif name in shipped_task_maps():
        text = (resources.files("raycurate.samples") / "task_maps" / f"{name}.yaml").read_bytes()
    else:
        raise unknown_name("task map", name, [*shipped_task_maps(), "<path of a .yaml file>"])
    return parse_task_map(text, name)


def parse_task_map(text: bytes | str, name: str) -> TaskMap:
    """A task map from YAML text; ``name`` is for the error message."""
    try:
        return TaskMap.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"the task map {name} is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(
            f"the task map {name} is wrong at {place}: {first['msg']}. Expected: rules: [{{prefix: coco/, task: name}}]"
        ) from None
