"""The commands that weigh tasks: balance, compare-weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from raycurate.cli.results import show_table
from raycurate.cli.support import config_of, out, plain, print_scoreboard, run_argument, settings
from raycurate.errors import UserError
from raycurate.run.filesystem import read_bytes, resolve, write_json
from raycurate.run.store import Run

if TYPE_CHECKING:
    from raycurate.balancing.scores import Groups


@click.command()
@click.argument("run", required=False)
@click.option("--scores", help="CSV: a row per probe model (mini, then each task), a column per task. Trains nothing.")
@click.option("--out", "path", help="JSON to write (with RUN also in it); `raycurate finetune --weights` reads it.")
@click.option("--model", default="tiny", help="Model to probe with: hub id, local folder, or 'tiny'.")
@click.option("--validation", help="Label of the samples that score the probes; no row of the test set.")
@click.option("--mini", default="1/32", help="Part of every task in the mini sets that all probes share.")
@click.option("--large", default="1", help="Part of the task of a probe.")
@click.option("--temperature", default="0.5", help="Of the softmaxes; auto: the smallest with weights in [0.5, 2].")
@click.option("--groups", "groups_path", help="YAML of group -> tasks; the tasks of a group share one weight.")
@click.option("--form", default="mini", help="mini: probes share mini sets; chat: each task alone over a base model.")
@click.option("--difficulty", default="real", help="real: from the N+1 probes; precise: from mini:TASK and alone:TASK.")
@click.option("--alpha", default="0.25,0.25,0.5", help="Shares of the outward, inward and difficulty weights.")
@click.option("--fixed", multiple=True, metavar="TASK=WEIGHT", help="Leave a task out, with this weight; repeatable.")
@click.option("--fixed-unscored", type=float, help="Leave out tasks without a ratio of scores, with this weight.")
@click.option("--strict", is_flag=True, help="A near-zero or negative denominator is an error.")
@settings
def balance(
    run: str | None,
    scores: str | None,
    path: str | None,
    temperature: str,
    groups_path: str | None,
    alpha: str,
    fixed: tuple[str, ...],
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Weigh tasks by what they give to each other and lack (CoTBal): by probe trainings in RUN, or from --scores.

    \b
    Example:
      raycurate balance runs/llava --model llava-hf/llava-1.5-7b-hf --validation val --large 1/4 --out weights.json
      raycurate balance --scores probes.csv --temperature auto --fixed sharegpt=1 --out weights.json
    """
    if (run is None) == (scores is None):
        raise UserError("give either RUN, to train probes in it, or --scores, a table of scores that is there already")
    values = {
        "temperature": _number("--temperature", temperature) if temperature != "auto" else temperature,
        "alpha": _shares(alpha),
        "fixed": dict(_pair(text) for text in fixed),
        **{name: given[name] for name in ("form", "difficulty", "strict")},
    }
    groups = _groups(groups_path) if groups_path else None
    if run is not None:
        asked = {name: given[name] for name in ("validation", "fixed_unscored", "label")}
        parts = {name: _part(f"--{name}", given[name]) for name in ("mini", "large")}
        made = _run_probes(run, {**values, **asked, **parts, "groups": groups}, given["model"], overrides)
        if path is not None:
            write_json(*resolve(path), made)
        path = path or Run(run).noun("balance", given["label"]).uri_of("weights.json")
    else:
        assert scores is not None, "one of the two is given"
        if path is None:
            raise UserError("--scores needs --out, the JSON file to write")
        made = _read_scores(scores, values, groups, overrides)
        write_json(*resolve(path), made)
    print_balance(made)
    out.print(f"[bold]weights[/] of {len(made['weights'])} tasks -> {plain(path)}", highlight=False)


def _read_scores(
    scores: str, values: dict[str, Any], groups: Groups | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    from raycurate.balancing import BalanceConfig, parse_scores, record
    from raycurate.balancing import balance as arithmetic

    config = config_of(BalanceConfig, values, overrides)
    data = _read(scores)
    result = arithmetic(parse_scores(_text(data, scores), scores), config, groups)
    return record(result, config, path=scores, data=data, groups=groups)


def _run_probes(run: str, values: dict[str, Any], model: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    from raycurate.config import SessionConfig
    from raycurate.experiments.engine.weights_config import BalanceProbesConfig

    if values["validation"] is None:
        raise UserError(
            "--validation LABEL is needed: samples that no test has. `raycurate ingest TEST --out RUN --label val "
            "--set hash_range=[0,0.5]` takes half of a test set; give [0.5,1] to the half that is reported"
        )
    config = config_of(BalanceProbesConfig, {**values, "finetune": {"model": model}}, overrides)
    from raycurate.experiments.balance import balance as stage
    from raycurate.ray_session import ray_session

    with ray_session(SessionConfig(dashboard=config.needs_dashboard)):  # type: ignore[call-arg]
        stage(Run(run), config)
    return dict(Run(run).noun("balance", config.label).read_json("weights.json") or {})


@click.command()
@run_argument
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="JSON of `balance`: the line 'cotbal'.")
@click.option("--weightings", default="ew,tla,rlw,dwa,igb,cotbal", help="Lines of the table, beside STL.")
@click.option("--model", default="tiny", help="Hub id, local folder, or 'tiny' (embedded).")
@click.option("--seeds", default="0,1", help="Of the training.")
@click.option("--part", default="1", help="Part of every task to train on.")
@click.option("--data", default="test", help="Label of the test set's samples.")
@settings
def compare_weights(
    run: str,
    weights: str | None,
    weightings: str,
    model: str,
    seeds: str,
    part: str,
    data: str,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Train with every weighting and seed, and one model per task (STL); print Delta% and E% against STL.

    \b
    Example:
      raycurate compare-weights runs/demo --weights weights.json --seeds 0,1 --data test
    """
    from raycurate.config import SessionConfig
    from raycurate.experiments.engine.weights_config import CompareWeightsConfig
    from raycurate.training.weights import read_weights

    values = {
        "weights": read_weights(weights) if weights else None,
        "weightings": [name.strip() for name in weightings.split(",")],
        "seeds": [seed.strip() for seed in seeds.split(",")],
        "part": _part("--part", part),
        "data": data,
        "finetune": {"model": model},
        "label": label,
    }
    config = config_of(CompareWeightsConfig, values, overrides)
    from raycurate.experiments.compare_weights import compare_weights as stage
    from raycurate.ray_session import ray_session

    with ray_session(SessionConfig(dashboard=config.needs_dashboard)):  # type: ignore[call-arg]
        stage(Run(run), config)
    print_scoreboard(Run(run).noun("weightings", label))


def _groups(uri: str) -> Groups:
    from raycurate.balancing import parse_groups

    return parse_groups(_text(_read(uri), uri), uri)


def _part(option: str, text: str) -> float:
    """A number or a fraction such as 1/32."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{option} {text!r}: expected a part of the rows, such as 1/32 or 0.25") from None


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
