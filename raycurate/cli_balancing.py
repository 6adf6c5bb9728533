"""The command that weighs tasks: balance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from raycurate.cli_support import config_of, out, plain
from raycurate.errors import UserError
from raycurate.filesystem import read_bytes, resolve, write_json

if TYPE_CHECKING:
    from raycurate.balancing import Balance


@click.command()
@click.option("--scores", required=True, help="CSV: a row per probe model (mini, then each task), a column per task.")
@click.option("--out", "path", required=True, help="JSON file to write; `raycurate finetune --weights` reads it.")
@click.option("--temperature", default="0.5", help="Of the softmaxes; auto: the smallest with weights in [0.5, 2].")
@click.option("--groups", "groups_path", help="YAML of group -> tasks; the tasks of a group share one weight.")
@click.option("--form", default="mini", help="mini: probes share mini sets; chat: each task alone over a base model.")
@click.option("--difficulty", default="real", help="real: from the N+1 probes; precise: from mini:TASK and alone:TASK.")
@click.option("--alpha", default="0.25,0.25,0.5", help="Shares of the outward, inward and difficulty weights.")
@click.option("--fixed", multiple=True, metavar="TASK=WEIGHT", help="Leave a task out, with this weight; repeatable.")
@click.option("--strict", is_flag=True, help="A near-zero or negative denominator is an error.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Any other setting.")
def balance(
    scores: str,
    path: str,
    temperature: str,
    groups_path: str | None,
    form: str,
    difficulty: str,
    alpha: str,
    fixed: tuple[str, ...],
    strict: bool,
    overrides: tuple[str, ...],
) -> None:
    """Turn a table of probe scores into task weights (CoTBal). Nothing is trained.

    \b
    Example:
      raycurate balance --scores probes.csv --temperature auto --fixed sharegpt=1 --out weights.json
    """
    from raycurate.balancing import BalanceConfig, parse_groups, parse_scores, record
    from raycurate.balancing import balance as arithmetic

    values = {
        "form": form,
        "difficulty": difficulty,
        "temperature": _number("--temperature", temperature) if temperature != "auto" else temperature,
        "alpha": _shares(alpha),
        "fixed": dict(_pair(text) for text in fixed),
        "strict": strict,
    }
    config = config_of(BalanceConfig, values, overrides)
    data = _read(scores)
    groups = parse_groups(_text(_read(groups_path), groups_path), groups_path) if groups_path else None
    result = arithmetic(parse_scores(_text(data, scores), scores), config, groups)
    write_json(*resolve(path), record(result, config, path=scores, data=data, groups=groups))
    _print(result, "task" if groups is None else "group", config.fixed)
    out.print(f"[bold]weights[/] of {len(result.by_task)} tasks -> {plain(path)}", highlight=False)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        allowed = "a number above 0, or auto" if option == "--temperature" else "numbers"
        raise UserError(f"{option} {text!r}: expected {allowed}") from None


def _shares(text: str) -> list[float]:
    shares = [_number("--alpha", part) for part in text.split(",")]
    if len(shares) != 3:
        raise UserError(f"--alpha {text!r} has {len(shares)} shares; expected are three, as in 0.25,0.25,0.5")
    return shares


def _pair(text: str) -> tuple[str, str]:
    task, separator, weight = text.rpartition("=")
    if not separator or not task:
        raise UserError(f"--fixed {text!r} is not of the form TASK=WEIGHT, for example sharegpt=1.0")
    return task, weight


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


def _print(result: Balance, kind: str, fixed: dict[str, float]) -> None:
    weights = result.weights
    columns: dict[str, Any] = {
        "difficulty": result.difficulty_N,
        "out": result.out_N,
        "in": result.in_N,
        "w(out)": weights.out_N,
        "w(in)": weights.in_N,
        "w(inter)": weights.inter_N,
        "w(difficulty)": weights.difficulty_N,
        "weight": weights.final_N,
    }
    table = _table(f"Weights at temperature {weights.temperature:.4g}", [kind, *columns])
    for place, unit in enumerate(result.units):
        table.add_row(escape(unit), *(f"{values_N[place]:.4f}" for values_N in columns.values()))
    for task, weight in fixed.items():
        table.add_row(escape(task), *["-"] * (len(columns) - 1), f"{weight:.4f}")
    _show(table)
    matrix = _table("Contributions: what the row gives to the column", ["", *map(escape, result.units)])
    for unit, row_N in zip(result.units, result.contribution_NN, strict=True):
        matrix.add_row(escape(unit), *(f"{value:.3f}" for value in row_N))
    _show(matrix)
    for concern in result.concerns:
        out.print(f"[bold yellow]warning:[/] {plain(str(concern))}", highlight=False)


def _show(table: Table) -> None:
    """Print a table in its own width: a number that is cut off is worse than a line that the terminal wraps."""
    width = Measurement.get(out, out.options.update(width=10_000), table).maximum
    Console(file=out.file, width=max(out.width, width)).print(table)


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    return table
