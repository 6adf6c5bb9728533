"""The command line: parse, call one function, print. Exit codes: 0 done, 1 failed, 2 usage."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import yaml
from rich.table import Table

from raycurate.cli.balancing import balance, compare_weights
from raycurate.cli.cleaning import decontaminate, dedup, forget
from raycurate.cli.doctor import doctor
from raycurate.cli.estimate import estimate
from raycurate.cli.experiments import choose, individual_select, scaling, transferability
from raycurate.cli.init import init
from raycurate.cli.options import command_config, stage_command
from raycurate.cli.results import print_result, show_table
from raycurate.cli.settings import settings as settings_command
from raycurate.cli.support import Group, out, plain, print_manifest, run_argument, run_stage, set_up_logging
from raycurate.cli.sweep import sweep
from raycurate.cli.training import compare, evaluate, finetune
from raycurate.cli.views import diff, explain, print_report_place, report, show
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.version import __version__

if TYPE_CHECKING:
    from raycurate.config import ExportConfig, SelectConfig


def envelope_of(text: str) -> Any:
    """The value of ``--envelope`` as fields, so that ``--set envelope.cap=`` may change one of them."""
    from raycurate.config import EnvelopeConfig, envelope_fields

    try:
        fields = envelope_fields(text)
        return None if fields is None else {**EnvelopeConfig.model_validate({}).model_dump(), **fields}
    except ValueError as error:
        raise UserError(f"--envelope: {error}") from None


def mixture_of(sources: tuple[str, ...]) -> dict[str, str]:
    """Path by name, where every source has a name; none where they are no mixture."""
    pairs = [text.partition("=") for text in sources]
    if not all(equals and name and "/" not in name and path for name, equals, path in pairs):
        return {}
    if len(pairs) == 1 and os.path.exists(sources[0]):
        return {}  # a file with such a name
    named = {name: path for name, _, path in pairs}
    if len(named) < len(pairs):
        raise UserError(f"two sources have the same name in {' '.join(sources)}: give each its own")
    return named


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("--quiet", is_flag=True, help="No progress lines.")
def main(debug: bool, quiet: bool) -> None:
    """Choose what a vision-language model should learn from, and how much of each.

    \b
    Example, the whole way on one machine:
      raycurate ingest train.json --images images/ --out runs/mine
      raycurate extract runs/mine --model tiny
      raycurate cluster runs/mine --clusters 100
      raycurate select runs/mine --ratio 0.2
      raycurate export runs/mine --format llava --out coreset.json

    Completion by the Tab key: eval "$(_RAYCURATE_COMPLETE=bash_source raycurate)"; zsh_source, fish_source for others.
    """
    set_up_logging(debug=debug, quiet=quiet)


@stage_command("ingest", on_run=False, raw=True)
@click.argument("source")
@click.argument("more", nargs=-1, metavar="")
@click.option("--out", "run", required=True, help="Run directory (local, s3://, gs://).")
def ingest(run: str, given: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """Read, validate and normalise SOURCE, or NAME=SOURCE several times as one mixture, into a run directory.

    \b
    Example:
      raycurate ingest llava_v1_5_mix665k.json --images images/ --task-map llava665k --out runs/llava
      raycurate ingest vqa=vqa.json ocr=ocr.json --images images/ --out runs/llava --set sources.ocr.cap=10000
    """
    more = given.pop("more")
    if named := mixture_of((given["source"], *more)):
        del given["source"]
        shared = {"format": given.pop("format", None) or "auto"}
        given["sources"] = {name: {"path": path, **shared} for name, path in named.items()}
    elif more:
        raise click.UsageError(
            f"one SOURCE is read, {1 + len(more)} are given ({given['source']}, {more[0]}, ...). Quote a glob, so that "
            "the shell leaves it to raycurate ('data/*.json'), or name the folder that holds the files; several "
            "sources as one mixture have names: vqa=a.json ocr=b.json"
        )
    run_stage("ingest", run, command_config(given, overrides))


@stage_command("extract")
def extract(run: str, config: Any) -> None:
    """Run the reference model over every sample and keep one unit row of activations each.

    \b
    Example:
      raycurate extract runs/llava --model llava-hf/llava-1.5-7b-hf --set batch_tokens=32768
    """
    run_stage("extract", run, config)


@stage_command("score")
def score(run: str, config: Any) -> None:
    """Run the forward passes that selection methods share; what is there already is not made again.

    \b
    Example:
      raycurate score runs/llava --scores token_losses,last_token,clip --clip openai/clip-vit-large-patch14-336
    """
    run_stage("score", run, config)


@stage_command("cluster")
def cluster(run: str, config: Any) -> None:
    """Cluster the features by spherical k-means.

    \b
    Example:
      raycurate cluster runs/llava --clusters 10000
      raycurate cluster runs/llava --clusters 10000 --features last_token --label last_token
    """
    run_stage("cluster", run, config)


@stage_command("rank")
def rank(run: str, config: Any) -> None:
    """Order the rows of every group, and measure clusters (`select` does this when needed).

    \b
    Example:
      raycurate rank runs/llava --set sigma=0.5
      raycurate rank runs/llava --set order=mmd_by_task --set label=by-task --set sigma=0.5
    """
    run_stage("rank", run, config)


@stage_command("select")
@click.option("--temperature", "options__temperature", type=float, help="Of the budget's softmax (method coincide).")
@click.option(
    "--envelope",
    is_flag=False,
    flag_value="on",
    callback=lambda _ctx, _param, value: None if value is None else envelope_of(value),
    metavar="FLOOR,CAP,RANDOM",
    help="Bound what the method takes of each task to parts of its share, and draw a part of it; alone: 0.5,2,0.3.",
)
@click.option(
    "--ignore-marks",
    "marks",
    is_flag=True,
    callback=lambda _ctx, _param, value: [] if value else None,
    help="Choose among all rows, also those that `dedup` or `decontaminate` has marked.",
)
@click.option(
    "--task-weights",
    metavar="FILE",
    help="Weights of the tasks' shares: JSON of task -> weight, or balance/LABEL, which this run's `balance` made.",
)
def select(run: str, config: SelectConfig) -> None:
    """Decide which samples stay.

    \b
    Example:
      raycurate select runs/llava --ratio 0.2 --task-power 0.5 --task-weights weights.json
      raycurate select runs/llava --method coincide --ratio 0.2 --temperature 0.1 --envelope 0.5,2,0.3
      raycurate select runs/llava --method auto --ratio 0.2          # what `raycurate choose` took
      raycurate select runs/llava --method d2_pruning --ratio 0.2 --set options.gamma_r=0.4 --label d2
    """
    from raycurate.selection import build_selector
    from raycurate.stages.selecting.auto import AUTO
    from raycurate.stages.selecting.weights import check_shares

    if config.method != AUTO:
        check_shares(config, build_selector(config.method, config.options))  # what is wrong is told before Ray starts
    run_stage("select", run, config)


@stage_command("export")
@click.option(
    "--task-weights",
    metavar="FILE",
    help="Of a format with a part per task: JSON of task -> weight, or balance/LABEL, which this run's `balance` made.",
)
def export(run: str, config: ExportConfig) -> None:
    """Write the kept samples as a dataset that trainers read.

    \b
    Example:
      raycurate export runs/llava --format llava --out coreset.json
      raycurate export runs/llava --format llamafactory --task-weights balance/main --out coreset
    """
    from raycurate.stages.export import export as stage

    rows = stage(Run(run), config)
    out.print(f"[bold]export[/]    {rows:,} rows -> {plain(config.out)}", highlight=False)


@main.command("run")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="STAGE.FIELD=VALUE", help="Change a setting.")
@click.option("--dry-run", is_flag=True, help="Check and print the resolved recipe, run nothing.")
def run_command(recipe: str, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Run all stages of RECIPE, each resumed where it stopped.

    \b
    Example:
      raycurate run jobs/recipes/llava665k_coincide.yaml --set select.ratio=0.1
    """
    from raycurate.recipe import load_recipe

    config = load_recipe(recipe, overrides)
    if dry_run:
        out.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), markup=False, highlight=False)
        return
    from raycurate.pipeline import run_recipe

    run = Run(config.run)

    def report(manifest: Manifest, seconds: float) -> None:
        print_manifest(manifest, seconds)
        print_result(run, manifest)

    run_recipe(config, report)
    if (export := config.section("export")) is not None:
        out.print(f"[bold]coreset[/]   {plain(export.out)} ({export.format})", highlight=False)
    if (selected := config.section("select")) is not None:
        from raycurate.report.page import write_report

        print_report_place(write_report(run, selected.label))


@main.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs: nouns, and what would run next.")
def status(run: str, as_json: bool) -> None:
    """Tell what is done, running and left in RUN, what would run next, and about how long.

    \b
    Example:
      raycurate status runs/llava
      raycurate status runs/llava --json
    """
    from raycurate.estimate.work import duration
    from raycurate.stages.engine.next_step import next_steps
    from raycurate.stages.engine.status import status as run_status

    if as_json:
        lines = run_status(Run(run))
        found = {"nouns": list(map(asdict, lines)), "next": list(map(asdict, next_steps(Run(run), lines)))}
        click.echo(json.dumps(found, indent=2))
        return
    table = Table("noun", "state", "rows", "of", "quarantined", "seconds", "foreseen")
    lines = run_status(Run(run))
    for line in lines:
        total = "?" if line.total is None else f"{line.total:,}"
        foreseen = ", then ".join(f"{each:.1f}" for each in (line.estimated, line.expected) if each is not None)
        counts = (f"{line.rows:,}", total, str(line.quarantined))
        table.add_row(line.name, line.state, *counts, f"{line.seconds:.1f}", foreseen)
    show_table(table)
    for line in lines:
        if line.sources:
            out.print(f"[bold]sources:[/] {plain(line.name)}: {plain(line.sources)}", highlight=False)
        if line.unreached:
            told = f"whether {line.name} is made from what is there now: {line.unreached}"
            out.print(f"[bold yellow]cannot be told:[/] {plain(told)}", highlight=False)
        if line.why:
            out.print(f"[bold yellow]stale:[/] {plain(line.why)}", highlight=False)
    for step in next_steps(Run(run), lines):
        about = "" if step.seconds is None else f", about {duration(step.seconds)}"
        out.print(f"[bold]next:[/] raycurate {plain(step.command)} ({plain(step.why)}{about})", highlight=False)


for command in (
    ingest,
    extract,
    score,
    cluster,
    dedup,
    decontaminate,
    forget,
    rank,
    select,
    export,
    settings_command,
    balance,
    finetune,
    evaluate,
    compare,
    compare_weights,
    sweep,
    choose,
    individual_select,
    transferability,
    scaling,
    init,
    doctor,
    estimate,
    explain,
    diff,
    show,
    report,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
