"""The commands that make a noun again as it is: with the settings of its description that are no defaults.

As it stands such a command gives the fingerprint that the noun had, or the one that follows from what has changed
before it. What is a part of another stage's work (tokens, predictions, sketches) is made by the command of the noun
that was made from it. A noun of which nothing is known has the bare command (`names.command_for`).
Cost: small JSONs, and the import of a config; asked for where an error or `status` names a command.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from raycurate.run.store import Noun, Run
from raycurate.stages.engine.exported import Exported
from raycurate.stages.engine.growth import APPENDED
from raycurate.stages.engine.names import PIECE, SCORE_NET, command_for
from raycurate.stages.table import STAGES

WIDTH = 1 << 20
"""Of a line of YAML: values are never folded."""


def commands_again(noun: Noun) -> list[str]:
    """What to type after `raycurate` to make a noun again, in this order; more than one where samples have grown."""
    description = _description(noun)
    stage = str(description.get("stage", ""))
    if stage in STAGES and STAGES[stage].owner:
        users = [found for each in _used_by(noun, description) for found in commands_again(each)]
        if users or stage != "predict":
            return users or [_bare(noun)]
        stage = STAGES[stage].owner  # answers have the settings of `evaluate` that they follow from
    if stage not in STAGES:
        return [_bare(noun)]
    first = _command(noun, stage, description)
    pieces = description.get(APPENDED, ())
    return [f"{first} --replace", *(_ingest(noun, piece, append=True) for piece in pieces)] if pieces else [first]


def export_again(run: Run, export: Exported) -> str:
    """What to type after `raycurate` to write an export again."""
    noted = {"out": export.out, "format": export.format, "selection": export.selection}
    return " ".join(("export", shlex.quote(run.uri), *_options("export", {**noted, **export.settings})))


def told_commands(nouns: Iterable[Noun]) -> str:
    """The commands that make some nouns again, one after the other, each once."""
    commands = dict.fromkeys(f"`raycurate {command}`" for noun in nouns for command in commands_again(noun))
    return ", then ".join(commands)


def _description(noun: Noun) -> Mapping[str, Any]:
    """What a noun is or is to be, with the settings of an experiment, which its metrics have."""
    manifest = noun.manifest()
    if manifest is None:
        begun = (noun.read_json("work.json") or {}).get("description", {})
        return {**begun, "config": begun.get("config") or {}}
    settings = manifest.metrics.get("config") or manifest.description.get("config") or {}
    return {**manifest.description, "config": settings}


def _used_by(noun: Noun, description: Mapping[str, Any]) -> list[Noun]:
    """The first noun that was made from a part; of a score-net the model that it was trained with."""
    run = Run(noun.run_uri)
    if description.get("stage") == SCORE_NET:
        return [
            run.noun(*name.split("/", 1)) for name in description.get("made_from", ()) if name.startswith("models/")
        ]
    name = f"{noun.noun}/{noun.label}"
    return [each for each in run.nouns() if name in _description(each).get("made_from", ())][:1]


def _bare(noun: Noun) -> str:
    """A command without settings."""
    command = command_for(noun)
    stage, _, rest = command.partition(" ")
    return command if noun.run_uri in command else f"{stage} {shlex.quote(noun.run_uri)} {rest}".strip()


def _command(noun: Noun, stage: str, description: Mapping[str, Any]) -> str:
    piece = PIECE.fullmatch(noun.label) if noun.noun == "samples" else None
    if piece is not None:
        return _ingest(Run(noun.run_uri).noun("samples", piece[1]), description, append=True)
    if stage == "ingest":
        return _ingest(noun, description)
    if stage == "score":
        return _score(noun, description)
    return _with_settings([stage, shlex.quote(noun.run_uri)], noun, stage, description["config"])


def _ingest(noun: Noun, description: Mapping[str, Any], *, append: bool = False) -> str:
    settings = dict(description["config"])
    words = ["ingest", shlex.quote(settings.pop("source", "SOURCE")), "--out", shlex.quote(noun.run_uri)]
    return _with_settings([*words, *(["--append"] if append else [])], noun, "ingest", settings)


def _score(noun: Noun, description: Mapping[str, Any]) -> str:
    """Of one output of `score`, whose description has no settings but those that this output follows from."""
    settings = dict(description["config"])
    group = noun.label.rsplit("-", 1)[-1]
    words = ["score", shlex.quote(noun.run_uri)]
    if "given" not in settings:
        words += ["--scores", group]
        if dtype := (description.get("inputs") or {}).get("dtype"):
            settings["dtype"] = dtype.removeprefix("torch.")
    if group == "clip" and "model" in settings:
        settings["clip"] = settings.pop("model")
    label = noun.label.removesuffix(group).removesuffix("-")
    words += ["--label", label] if label else []
    read = next((name for name in description.get("made_from", ()) if name.startswith("samples/")), "samples/main")
    settings["samples"] = read.partition("/")[2]
    return " ".join((*words, *_options("score", settings)))


def _with_settings(words: list[str], noun: Noun, stage: str, settings: Mapping[str, Any]) -> str:
    fields: Mapping[str, FieldInfo] = STAGES[stage].load_config().model_fields
    named = [] if noun.label == fields["label"].default else ["--label", noun.label]
    nulls = [name for name, info in fields.items() if name not in settings and _is_set_to_null(info)]
    return " ".join((*words, *named, *_options(stage, {**settings, **dict.fromkeys(nulls)})))


def _options(stage: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings that a stage's defaults do not have, as options."""
    kind = STAGES[stage].load_config()
    fields: Mapping[str, FieldInfo] = kind.model_fields
    found = []
    for name, info in fields.items():
        value = settings.get(name)
        if name not in settings or (not info.is_required() and value == _default(info)):
            continue
        if info.is_required() and not isinstance(value, Mapping):
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            found.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
        else:
            found.append(f"--set {shlex.quote(f'{name}={_text(value)}')}")
    return found


def _is_set_to_null(info: FieldInfo) -> bool:
    """Whether a setting that a description lacks was null: descriptions have all that determines a result but nulls."""
    extra = info.json_schema_extra
    is_execution = isinstance(extra, Mapping) and extra.get("execution")
    nullable = type(None) in get_args(info.annotation)
    return nullable and not is_execution and not info.is_required() and _default(info) is not None


def _default(info: FieldInfo) -> Any:
    return to_jsonable_python(info.get_default(call_default_factory=True))


def _text(value: Any) -> str:
    """A value as ``--set`` reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=WIDTH, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()
