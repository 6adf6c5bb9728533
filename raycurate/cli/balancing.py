"""The commands that weigh tasks: balance, compare-weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from raycurate.cli.options import command_config, model_option, stage_command
from raycurate.cli.results import show_table
from raycurate.cli.support import existing_run, out, plain, print_scoreboard, run_stage
from raycurate.cli.training import weights_option
from raycurate.errors import UserError
from raycurate.run.filesystem import read_bytes, resolve, write_json
from raycurate.run.store import Run

if TYPE_CHECKING:
    from raycurate.balancing.scores import Groups


@stage_command("balance", on_run=False, raw=True)
@click.argument("run", required=False, callback=existing_run)
@click.option("--scores", help="CSV: a row per probe model (mini, then each task), a column per task. Trains nothing.")
@click.option("--out", "path", help="JSON to write (with RUN also in it); `raycurate finetune --weights` reads it.")
@click.option("--groups", "groups_path", help="YAML of group -> tasks; the tasks of a group share one weight.")
@model_option
def balance(run: str | None, given: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """Weigh tasks by what they give to each other and lack (CoTBal): by probe trainings in RUN, or from --scores.

    \b
    Example:
      raycurate balance runs/llava --model llava-hf/llava-1.5-7b-hf --validation val --large 1/4 --out weights.json
      raycurate balance --scores probes.csv --temperature auto --fixed sharegpt=1 --out weights.json
    """
    scores, path, groups_path = (given.pop(name) for name in ("scores", "path", "groups_path"))
    if (run is None) == (scores is None):
        raise UserError("give either RUN, to train probes in it, or --scores, a table of scores that is there already")
    groups = _groups(groups_path) if groups_path else None
    if run is not None:
        made = _run_probes(run, {**given, "groups": groups}, overrides)
        if path is not None:
            write_json(*resolve(path), made)
        path = path or Run(run).noun("balance", given["label"]).uri_of("weights.json")
    else:
        if path is None:
            raise UserError("--scores needs --out, the JSON file to write")
        made = _read_scores(scores, given, groups, overrides)
        write_json(*resolve(path), made)
    print_balance(made)
    out.print(f"[bold]weights[/] of {len(made['weights'])} tasks -> {plain(path)}", highlight=False)


def _read_scores(
    scores: str, given: dict[str, Any], groups: Groups | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    from raycurate.balancing import BalanceConfig, parse_scores, record
    from raycurate.balancing import balance as arithmetic

    values = {name: value for name, value in given.items() if name in BalanceConfig.model_fields}
    config = command_config(values, overrides, BalanceConfig)
    data = _read(scores)
    result = arithmetic(parse_scores(_text(data, scores), scores), config, groups)
    return record(result, config, path=scores, data=data, groups=groups)


def _run_probes(run: str, given: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    if given["validation"] is None:
        raise UserError(
            "--validation LABEL is needed: samples that no test has. `raycurate ingest TEST --out RUN --label val "
            "--set hash_range=[0,0.5]` takes half of a test set; give [0.5,1] to the half that is reported"
        )
    config = command_config(given, overrides)
    run_stage("balance", run, config, quiet=True)
    return dict(Run(run).noun("balance", config.label).read_json("weights.json") or {})


@stage_command("compare-weights")
@weights_option("JSON of `balance`: the line 'cotbal'.")
@model_option
def compare_weights(run: str, config: Any) -> None:
    """Train with every weighting and seed, and one model per task (STL); print Delta% and E% against STL.

    \b
    Example:
      raycurate compare-weights runs/demo --weights weights.json --seeds 0,1 --data test
    """
    run_stage("compare-weights", run, config, quiet=True)
    print_scoreboard(Run(run).noun("weightings", config.label))


def _groups(uri: str) -> Groups:
    from raycurate.balancing import parse_groups

    return parse_groups(_text(_read(uri), uri), uri)


def _read(uri: str) -> bytes:
    try:
        return read_bytes(*resolve(uri))
    except OSError as error:
        raise UserError(f"cannot read {uri}: {error}") from None


def _text(data: bytes, uri: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} is not UTF-8 text: {error}; save it as CSV or YAML in UTF-8") from None


def print_balance(made: Mapping[str, Any]) -> None:
    """The tables of a finished balance, from what `weights.json` holds."""
    names = ("difficulty", "out", "in", "weight_out", "weight_in", "weight_inter", "weight_difficulty", "weight")
    headings = ("difficulty", "out", "in", "w(out)", "w(in)", "w(inter)", "w(difficulty)", "weight")
    kind = "task" if made["groups"] is None else "group"
    table = _table(f"Weights at temperature {made['temperature']:.4g}", [kind, *headings])
    for unit, numbers in made["units"].items():
        table.add_row(escape(unit), *(f"{numbers[name]:.4f}" for name in names))
    for task, weight in made["settings"]["fixed"].items():
        table.add_row(escape(task), *["-"] * (len(headings) - 1), f"{weight:.4f}")
    show_table(table)
    matrix = _table("Contributions: what the row gives to the column", ["", *map(escape, made["units"])])
    for unit, row in made["contributions"].items():
        matrix.add_row(escape(unit), *(f"{value:.3f}" for value in row.values()))
    show_table(matrix)
    for line in (*made.get("notes", ()), *(concern["told"] for concern in made["concerns"])):
        out.print(f"[bold yellow]warning:[/] {plain(line)}", highlight=False)


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    return table
