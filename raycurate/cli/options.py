"""The options of a stage's command, from the fields of its config.

A config names in `command_line` the fields that deserve an option. The option's name, help, bounds and default are the
field's, so that each stands in one place; every other field is reached by ``--set``. An option that is not given is
not handed on: the config's own default holds. Configs are imported when a command's options are looked at, not when
the commands are listed.

    field                      option
    number, text               --max-rows VALUE
    tuple                      --seeds 0,1,2
    mapping                    --fixed NAME=VALUE, repeatable; several by commas
    bool                       --strict
    "method=--lora/--full"     a switch between two values of a field
    text or null               `none` is null
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import BeforeValidator

from raycurate.cli.support import MethodOption, ReadableCommand, config_of, parts, run_argument, settings
from raycurate.errors import UserError
from raycurate.settings import OfMethods, StageConfig
from raycurate.stages.table import stage_of

Function = Callable[..., None]
NULL = "none"
NESTED = "__"
"""In the name of an extra option's parameter: ``finetune__model`` is the value of ``finetune.model``."""
MODEL = "finetune__model"


class StageCommand(ReadableCommand):
    """A command whose options are those of a stage's config, made when they are first looked at."""

    def __init__(self, *args: Any, stage: str, loose: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage, self._loose = stage_of(stage), loose
        self._made = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Arguments and options of the command itself, then those of the config, then those of every stage."""
        if not self._made:
            kind = self.stage.load_config()
            common = [param for param in self.params if param.name in ("label", "replace", "overrides")]
            own = [param for param in self.params if param not in common]
            made = [option for option in options_of(kind) if option.name not in {param.name for param in own}]
            for option in made:
                option.required = option.required and not self._loose
            fields = {*kind.model_fields, "overrides"}
            self.params = [*own, *made, *(param for param in common if param.name in fields)]
            self._made = True
        return super().get_params(ctx)


def command_config(given: Mapping[str, Any], overrides: tuple[str, ...], kind: type[StageConfig] | None = None) -> Any:
    """A config from the values of options: what was not given is left to the config's own defaults.

    Args:
        given: value by field; ``section__field`` is inside of a section.
        overrides: of ``--set``.
        kind: of config; default: that of the stage whose command runs.
    """
    context = click.get_current_context()
    command = context.command
    assert isinstance(command, StageCommand), "it is called by one"
    kind = kind or command.stage.load_config()
    values: dict[str, Any] = {}
    nulls: list[str] = []
    for name, value in given.items():
        is_default = context.get_parameter_source(name) == ParameterSource.DEFAULT and name in kind.model_fields
        if is_default or value is None or value == {}:
            continue
        if value == NULL and name in kind.model_fields and _is_nullable(kind.model_fields[name].annotation):
            nulls.append(f"{name}=null")
            continue
        *sections, leaf = name.split(NESTED)
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[leaf] = value
    return config_of(kind, values, (*nulls, *overrides))


def stage_command(
    stage: str, *, name: str | None = None, on_run: bool = True, raw: bool = False
) -> Callable[[Function], StageCommand]:
    """Make ``function(run, config)`` the command of a stage.

    Args:
        stage: its name in `stages/table.py`.
        name: of the command; default: the stage's.
        on_run: it has the argument RUN, a run directory that is there.
        raw: the function makes the config itself: it is given ``(run, given, overrides)``, and no option is required.
    """

    def decorate(function: Function) -> StageCommand:
        def callback(*, run: str, overrides: tuple[str, ...], **given: Any) -> None:
            if raw:
                function(run, given, overrides)
            else:
                function(run, command_config(given, overrides))

        functools.update_wrapper(callback, function)
        whole = settings(callback)
        decorated = run_argument(whole) if on_run else whole
        return click.command(name or stage_of(stage).name, cls=StageCommand, stage=stage, loose=raw)(decorated)

    return decorate


def options_of(kind: type[StageConfig]) -> list[click.Option]:
    """The options of a config, in the order of its `command_line`."""
    return [_option(kind, *_flag_of(entry)) for entry in kind.command_line]


def _flag_of(entry: str) -> tuple[str, str]:
    field, _, flag = entry.partition("=")
    return field, flag or "--" + field.replace("_", "-")


def _option(kind: type[StageConfig], field: str, flag: str) -> click.Option:
    info = kind.model_fields[field]
    annotation = info.annotation
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    text = _help(info.description or "", annotation)
    names = [field, *flag.split(",")]
    if "/" in flag:
        yes, no = (part.strip("- ") for part in flag.split("/"))
        return click.Option(names, is_flag=True, default=default == yes, help=text, callback=_switch(yes, no))
    if annotation is bool:
        return click.Option(names, is_flag=True, default=False, flag_value=not default, help=text)
    common: dict[str, Any] = {"required": info.is_required(), "help": text}
    if shown := _shown(default):
        common["default"] = shown
    choices = _alternatives(annotation)
    if any(get_origin(choice) is dict for choice in choices):
        return click.Option(names, multiple=True, metavar="NAME=VALUE", callback=_pairs(flag), help=text)
    if any(get_origin(choice) is tuple for choice in choices):
        words = [word for choice in choices if get_origin(choice) is Literal for word in get_args(choice)]
        return click.Option(names, callback=_several(words), metavar="A,B,...", **common)
    numbers = [choice for choice in choices if choice in (int, float)]
    read_first = any(isinstance(each, BeforeValidator) for each in info.metadata)  # fractions, for one
    plain = len(choices) == len(numbers) == 1 and not read_first
    option = MethodOption if any(isinstance(each, OfMethods) for each in info.metadata) else click.Option
    return option(names, type=numbers[0] if plain else str, metavar=None if plain else "TEXT", **common)


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a field takes, but for None; without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for one in get_args(annotation) if one is not type(None) for each in _alternatives(one)]
    return [annotation]


def _is_nullable(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def _help(description: str, annotation: Any) -> str:
    """The field's description as a sentence, with the values that it may have where it does not name them."""
    words = [word for one in _alternatives(annotation) if get_origin(one) is Literal for word in get_args(one)]
    named = all(str(word) in description for word in words)
    text = description if named or len(words) < 2 else "; ".join(filter(None, (description, ", ".join(words))))
    if not text:
        return ""
    is_value = text.split()[0].endswith((":", ","))  # as in "mini: probes share ...": it is typed in lower case
    return f"{text[0] if is_value else text[0].upper()}{text[1:].rstrip('.')}."


def _shown(default: Any) -> str:
    if default is None or default == () or default == {}:
        return ""
    if isinstance(default, tuple):
        return ",".join(map(_shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _switch(yes: str, no: str) -> Callable[..., str]:
    return lambda _ctx, _param, value: yes if value else no


def _several(words: Sequence[str]) -> Callable[..., Any]:
    """A list by commas, or one of the words that stand for something else."""
    return lambda _ctx, _param, value: value if value is None or value in words else parts(value)


def _pairs(flag: str) -> Callable[..., dict[str, str]]:
    def read(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
        pairs = [pair for text in values for pair in (parts(text) if _is_list(text) else (text,))]
        return dict(named_value(flag, pair) for pair in pairs)

    return read


def _is_list(text: str) -> bool:
    """Whether each part between commas is a pair: a name may hold a comma."""
    return all("=" in part for part in text.split(","))


def named_value(flag: str, text: str) -> tuple[str, str]:
    """``NAME=VALUE``; a name may hold further signs of equality."""
    name, separator, value = text.rpartition("=")
    if not separator or not name or not value:
        raise UserError(f"{flag} {text!r} is not of the form NAME=VALUE, for example sharegpt=1.0")
    return name, value


model_option = click.option("--model", MODEL, default="tiny", help="Model to train: hub id, local folder, or 'tiny'.")
"""Of experiments: the model of all their trainings."""
