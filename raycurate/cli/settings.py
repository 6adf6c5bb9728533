"""The command `settings`: every setting of a stage, from its config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from raycurate.cli.results import show_table
from raycurate.cli.support import out
from raycurate.errors import unknown_name

if TYPE_CHECKING:
    from raycurate.settings import StageConfig


@click.command()
@click.argument("stage", required=False)
def settings(stage: str | None) -> None:
    """List every setting of STAGE, with its default: what `--set` takes; without STAGE, the stages.

    \b
    Example:
      raycurate settings extract
    """
    stages = stage_configs()
    if stage is None:
        out.print(f"raycurate settings STAGE, of: {', '.join(stages)}", highlight=False)
        return
    name = stage.replace("-", "_")
    if name not in stages:
        raise unknown_name("stage", stage, stages)
    table = Table("setting", "default", "allowed", "what", box=None, padding=(0, 2, 0, 0))
    for field, info in stages[name].model_fields.items():
        default = "(required)" if info.is_required() else _shown(info.get_default(call_default_factory=True))
        table.add_row(field, escape(default), escape(_allowed(stages[name], field)), escape(info.description or ""))
    show_table(table)
    out.print("Give one with --set SETTING=VALUE; values are YAML: null, [1, 2], {a: 1}, ...", highlight=False)


def stage_configs() -> dict[str, type[StageConfig]]:
    """The config of every stage and experiment, and of the cluster, by the name of its section."""
    from raycurate.config import SessionConfig
    from raycurate.stages.table import STAGES

    return {
        **{stage.section: stage.load_config() for stage in STAGES.values() if stage.config},
        "ray": SessionConfig,
    }


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _allowed(kind: type[StageConfig], field: str) -> str:
    """The type in words of the JSON schema, with its bounds."""
    schema = kind.model_json_schema()["properties"][field]
    choices = [_one(choice) for choice in schema.get("anyOf", [schema])]
    return " or ".join(dict.fromkeys(choice for choice in choices if choice != "null"))


def _one(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "$ref" in schema:
        return "section"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in bounds.items() if key in schema]
    names = {"array": "list", "object": "mapping", "string": "text", "integer": "integer", "number": "number"}
    kind = str(schema.get("type", "any"))
    return " ".join([names.get(kind, kind), *limits])
