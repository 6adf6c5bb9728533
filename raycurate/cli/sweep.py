"""The command `sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.table import Table

from raycurate.cli.options import MODEL, command_config, model_option, stage_command
from raycurate.cli.results import show_table
from raycurate.cli.support import out, plain, run_stage, where_it_lies
from raycurate.run.store import Noun, Run


@stage_command("sweep", raw=True)
@click.option("--finetune", is_flag=True, help="Train and evaluate on every selection.")
@model_option
def sweep(run: str, given: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """Select with every method at every temperature, ratio and seed, and tell how the selections differ.

    \b
    Example:
      raycurate sweep runs/llava --method coincide --temperatures 0.05,0.1,0.2 --ratios 0.05,0.1,0.2,0.4
      raycurate sweep runs/demo --methods full,random,coincide --ratios 0.1,0.2 --finetune --model tiny --data test
    """
    model, train = given.pop(MODEL), given.pop("finetune")
    config = command_config({**given, **({MODEL: model} if train else {})}, overrides)
    run_stage("sweep", run, config, quiet=True)
    print_sweep(Run(run).noun("sweeps", config.label))


def print_sweep(noun: Noun) -> None:
    """The diversity of every selection as a table, and where the rest lies."""
    results = noun.read_json("results.json")
    assert results is not None, "a finished sweep has its results"
    rows = results["trials"]
    cells = {name: [_cell(row, names, pattern) for row in rows] for name, names, pattern in COLUMNS}
    shown = {name: column for name, column in cells.items() if any(column)}
    if len(set(shown["seed"])) == 1:
        del shown["seed"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in shown:
        table.add_column(name, no_wrap=True, justify="left" if name == "method" else "right")
    for line in zip(*shown.values(), strict=True):
        table.add_row(*(plain(cell) for cell in line))
    show_table(table)
    out.print(f"[bold]sweep[/] {len(rows)} trials -> {where_it_lies(noun)}", highlight=False)


COLUMNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("method", ("method",), "{}"),
    ("temp.", ("temperature",), "{:g}"),
    ("ratio", ("ratio",), "{:g}"),
    ("seed", ("seed",), "{}"),
    ("kept", ("kept",), "{:,}"),
    ("tasks", ("tasks", "all_tasks"), "{}/{}"),
    ("entropy", ("task_entropy",), "{:.3f}"),
    ("eff.", ("effective_tasks",), "{:.2f}"),
    ("clusters", ("cluster_share",), "{:.1%}"),
    ("MMD^2", ("mmd2",), "{:.1e}"),
    ("overlap", ("mean_jaccard",), "{:.2f}"),
    ("Rel.%", ("rel_percent",), "{:.1f}"),
)


def _cell(row: dict[str, Any], names: Sequence[str], pattern: str) -> str:
    values = [row.get(name) for name in names]
    return "" if None in values else pattern.format(*values)
