"""The command `sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.table import Table

from raycurate.cli.results import show_table
from raycurate.cli.support import config_of, out, parts, plain, run_argument, settings, where_it_lies
from raycurate.run.store import Noun, Run


@click.command()
@run_argument
@click.option("--methods", "--method", default="coincide", help="Selection methods; full = all rows (--finetune).")
@click.option("--temperatures", help="Of the methods that have one.  [default: each method's own]", show_default=False)
@click.option("--ratios", default="0.2", help="Parts of all samples to keep.")
@click.option("--seeds", default="0", help="Of the selection, and of the training.")
@click.option("--finetune", is_flag=True, help="Train and evaluate on every selection.")
@click.option("--model", default="tiny", help="Model to train: hub id, local folder, or 'tiny'.")
@click.option("--data", default="test", help="Label of the test set's samples.")
@settings
def sweep(
    run: str,
    methods: str,
    temperatures: str | None,
    ratios: str,
    seeds: str,
    finetune: bool,
    model: str,
    data: str,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Select with every method at every temperature, ratio and seed, and tell how the selections differ.

    \b
    Example:
      raycurate sweep runs/llava --method coincide --temperatures 0.05,0.1,0.2 --ratios 0.05,0.1,0.2,0.4
      raycurate sweep runs/demo --methods full,random,coincide --ratios 0.1,0.2 --finetune --model tiny --data test
    """
    from raycurate.experiments.engine.config import SweepConfig

    values: dict[str, Any] = {
        "methods": parts(methods),
        "temperatures": parts(temperatures or ""),
        "ratios": parts(ratios),
        "seeds": parts(seeds),
        "data": data,
        "label": label,
    }
    if finetune:
        values["finetune"] = {"model": model}
    config = config_of(SweepConfig, values, overrides)
    from raycurate.config import SessionConfig
    from raycurate.experiments.sweep import sweep as run_sweep
    from raycurate.ray_session import ray_session

    with ray_session(SessionConfig(dashboard=config.finetune is not None)):  # type: ignore[call-arg]
        run_sweep(Run(run), config)
    print_sweep(Run(run).noun("sweeps", label))


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
