"""What settings are made of: frozen, validated fields; YAML in, ``--set stage.field=value`` on top.

A field marked ``execution`` says how the work is done and cannot change a result; every other field is part of the
stage's fingerprint, so changing it makes the stage run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raycurate.errors import UserError, unknown_name
from raycurate.run.names import plain_label

Label = Annotated[str, AfterValidator(plain_label)]
"""The name of a noun inside a run."""
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
"""What numpy's and torch's generators both take."""
ALTERNATIVES = ("str", "int", "float", "bool", "tuple", "dict", "none", "constrained-float", "constrained-int")
"""What pydantic calls the alternatives of a field, beside names with brackets."""
ConfigT = TypeVar("ConfigT", bound="StageConfig")


def _fraction(value: Any) -> Any:
    """A fraction such as 1/32 as a number."""
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is no part of the rows, such as 1/32 or 0.25") from None


Part = Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)]
"""A part of the rows: a number above 0 and up to 1, or a fraction as text."""


@dataclass(frozen=True)
class OfMethods:
    """Marks a field that names a selection method."""


def execution(default: Any, **kwargs: Any) -> Any:
    """A field that does not change the result (workers, memory, labels of outputs)."""
    return Field(default=default, json_schema_extra={"execution": True}, **kwargs)


def rejected_share() -> Any:
    """The field that says how many rejected rows are too many; `stages/engine/rejects.py` looks."""
    return execution(0.5, ge=0, le=1, description="fail when a larger share of the rows is rejected; 1: never")


def node_labels() -> Any:
    """The field that keeps a stage's workers on some nodes of the cluster."""
    return execution({}, description="labels of the nodes to run on, for example {raycurate/use: extract}; {}: any")


class StageConfig(BaseModel):
    """What every stage's config can do."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    command_line: ClassVar[tuple[str, ...]] = ()
    """Fields that have an option of their own on the command line (`cli/options.py`), in its order; ``field=--flag``
    where the flag is not the field's name. All others are reached by ``--set``."""

    def determining(self) -> dict[str, Any]:
        """The fields that determine the result, as plain values.

        What is null is left out: a setting that is new and not used does not make finished work stale.
        """
        values = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and extra.get("execution"):
                del values[name]
        return {name: value for name, value in values.items() if value is not None}


class NounConfig(StageConfig):
    """What all stages have in common that make a noun of the run."""

    replace: bool = execution(False, description="delete what is there under this label with other settings")

    @property
    def needs_dashboard(self) -> bool:
        """Whether Ray Train or Tune ask the State API, which the dashboard serves; it takes seconds to start."""
        return False


def make_config(kind: type[ConfigT], values: Mapping[str, Any], where: str = "") -> ConfigT:
    """A validated config; a wrong value becomes one readable ``UserError`` per field."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(_explain(kind, error, where)) from None


def _explain(kind: type[StageConfig], error: ValidationError, where: str) -> str:
    """One part per field: the alternatives of a field that takes several are one part."""
    found: dict[str, list[Any]] = {}
    problems = error.errors()
    deep = {problem["loc"][:-1] for problem in problems}
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in deep:  # without the items that are wrong themselves
            continue
        if problem["type"] == "extra_forbidden":
            owner = _owner_of(kind, problem["loc"][:-1])
            told = str(unknown_name("setting", str(problem["loc"][-1]), owner.model_fields))
        elif problem["type"] == "missing":
            told = "is required"
        elif problem["type"] == "value_error":  # raised by a check of our own: its text says what was given
            told = str(problem["ctx"]["error"])
        else:
            found.setdefault(_path(problem["loc"]), []).append(problem)
            continue
        found.setdefault(_path(problem["loc"]), []).append(told)
    lines = [f"{path}: {_told(problems)}" if path else _told(problems) for path, problems in found.items()]
    return f"{where}{': ' if where else ''}" + "; ".join(lines)


def _path(loc: Sequence[Any]) -> str:
    """The place of a value, without the names that pydantic gives to the alternatives of a type."""
    parts: list[str] = []
    for part in loc:
        if isinstance(part, str) and ("[" in part or part in ALTERNATIVES):
            break
        parts.append(str(part))
    return ".".join(parts)


def _told(problems: Sequence[Any]) -> str:
    """What is wrong with one value."""
    texts = [problem for problem in problems if isinstance(problem, str)]
    others = [problem for problem in problems if not isinstance(problem, str)]
    if others:
        wanted = " or ".join(dict.fromkeys(problem["msg"].removeprefix("Input should be ") for problem in others))
        start = "Input should be " if others[0]["msg"].startswith("Input should be ") else ""
        texts.append(f"{start}{wanted} (got {others[0]['input']!r})")
    return "; ".join(texts)


def _owner_of(kind: type[StageConfig], path: Sequence[Any]) -> type[BaseModel]:
    """The config that a place lies in; a name in a mapping of configs is no field."""
    owner: type[BaseModel] = kind
    for part in path:
        if str(part) in owner.model_fields:
            owner = next(_models_in(owner.model_fields[str(part)].annotation), owner)
    return owner


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one ``a.b=value`` in nested plain values."""
    name, separator, text = override.partition("=")
    if not separator or not name.strip():
        raise UserError(f"--set {override!r} is not of the form section.field=value, for example select.ratio=0.1")
    *sections, leaf = name.strip().split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override!r}: '{section}' is a value, not a section")
    try:
        target[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: {text!r} is not a YAML value; quote it") from None
