"""The command line: parse, call one function, print. Exit codes: 0 done, 1 failed, 2 usage."""

from __future__ import annotations

import functools
from typing import Any

import click
import yaml
from rich.table import Table

from raycurate.cli.balancing import balance, compare_weights
from raycurate.cli.experiments import individual_select, scaling, transferability
from raycurate.cli.results import print_result, show_table
from raycurate.cli.settings import settings as settings_command
from raycurate.cli.support import (
    Group,
    MethodOption,
    config_of,
    in_session,
    out,
    parts,
    plain,
    print_manifest,
    run_argument,
    set_up_logging,
    settings,
)
from raycurate.cli.sweep import sweep
from raycurate.cli.training import compare, evaluate, finetune
from raycurate.config import (
    ClusterConfig,
    ExportConfig,
    ExtractConfig,
    IngestConfig,
    RankConfig,
    ScoreConfig,
    SelectConfig,
)
from raycurate.run.store import Manifest, Run
from raycurate.version import __version__


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
      raycurate select runs/mine --method coincide --ratio 0.2
      raycurate export runs/mine --format llava --out coreset.json
    """
    set_up_logging(debug=debug, quiet=quiet)


@main.command()
@click.argument("source")
@click.argument("more", nargs=-1, metavar="")
@click.option("--images", help="Root of the image paths.")
@click.option("--out", "run", required=True, help="Run directory (local, s3://, gs://).")
@click.option("--format", "format_", default="auto", help="auto, llava, jsonl, parquet, huggingface, webdataset.")
@click.option("--task-map", help="'llava665k' or a YAML file that names tasks by image-path prefix.")
@click.option("--strict", is_flag=True, help="The first rejected row is an error.")
@settings
def ingest(
    source: str,
    more: tuple[str, ...],
    images: str | None,
    run: str,
    format_: str,
    task_map: str | None,
    strict: bool,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Read, validate and normalise SOURCE into a run directory.

    \b
    Example:
      raycurate ingest llava_v1_5_mix665k.json --images images/ --task-map llava665k --out runs/llava
    """
    if more:
        raise click.UsageError(
            f"one SOURCE is read, {1 + len(more)} are given ({source}, {more[0]}, ...). Quote a glob, so that the "
            "shell leaves it to raycurate ('data/*.json'), or name the folder that holds the files; sources of other "
            "kinds become samples of their own with --label."
        )
    values = {
        "source": source,
        "images": images,
        "format": format_,
        "task_map": task_map,
        "strict": strict,
        "label": label,
    }
    config = config_of(IngestConfig, values, overrides)
    from raycurate.stages.ingest import ingest as stage

    in_session(functools.partial(stage, Run(run), config))


@main.command()
@run_argument
@click.option("--model", default="tiny", help="Hub id, local folder, or 'tiny' (embedded).")
@click.option("--layers", default="auto", help="0-based decoder layers, comma-separated, or auto.")
@click.option("--variant", default="attn", help="attn, ffn, last_layer, boolean.")
@click.option("--strict", is_flag=True, help="The first rejected row is an error.")
@settings
def extract(
    run: str, model: str, layers: str, variant: str, strict: bool, label: str, overrides: tuple[str, ...]
) -> None:
    """Run the reference model over every sample and keep one unit row of activations each.

    \b
    Example:
      raycurate extract runs/llava --model llava-hf/llava-1.5-7b-hf --set batch_tokens=32768
    """
    chosen: Any = layers if layers == "auto" else parts(layers)
    values = {"model": model, "layers": chosen, "variant": variant, "strict": strict, "label": label}
    config = config_of(ExtractConfig, values, overrides)
    from raycurate.stages.extract import extract as stage

    in_session(functools.partial(stage, Run(run), config))


@main.command()
@run_argument
@click.option(
    "--scores", default="token_losses", help="token_losses, last_token, mean_token, clip; comma-separated, one pass."
)
@click.option("--model", default="tiny", help="Hub id, local folder, or 'tiny' (embedded): of all scores but clip.")
@click.option("--clip", help="CLIP or SigLIP model of the score clip: hub id or local folder.")
@click.option("--given", help="Parquet of key and difficulty: your own numbers instead of a pass.")
@click.option("--strict", is_flag=True, help="The first rejected row is an error.")
@settings
def score(
    run: str,
    scores: str,
    model: str,
    clip: str | None,
    given: str | None,
    strict: bool,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Run the forward passes that selection methods share; what is there already is not made again.

    \b
    Example:
      raycurate score runs/llava --scores token_losses,last_token,clip --clip openai/clip-vit-large-patch14-336
    """
    values = {
        "scores": parts(scores),
        "model": model,
        "clip": clip,
        "given": given,
        "strict": strict,
        "label": label,
    }
    config = config_of(ScoreConfig, values, overrides)
    from raycurate.stages.score import score as stage

    in_session(functools.partial(stage, Run(run), config))


@main.command()
@run_argument
@click.option("--clusters", type=int, required=True, help="K.")
@click.option("--features", default="main", help="Label of the features: main (activations), last_token, ...")
@click.option("--iterations", type=int, default=50)
@click.option("--project", type=int, help="Random projection to this many dimensions first.")
@click.option("--fit-sample", type=int, help="Fit on this many rows, then assign all.")
@click.option("--workers", type=int, help="Data-parallel workers.")
@settings
def cluster(
    run: str,
    clusters: int,
    features: str,
    iterations: int,
    project: int | None,
    fit_sample: int | None,
    workers: int | None,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Cluster the features by spherical k-means.

    \b
    Example:
      raycurate cluster runs/llava --clusters 10000
      raycurate cluster runs/llava --clusters 10000 --features last_token --label last_token
    """
    values = {
        "clusters": clusters,
        "features": features,
        "iterations": iterations,
        "project": project,
        "fit_sample": fit_sample,
        "workers": workers,
        "label": label,
    }
    config = config_of(ClusterConfig, values, overrides)
    from raycurate.stages.cluster import cluster as stage

    in_session(functools.partial(stage, Run(run), config))


@main.command()
@run_argument
@settings
def rank(run: str, label: str, overrides: tuple[str, ...]) -> None:
    """Order the rows of every group, and measure clusters (`select` does this when needed).

    \b
    Example:
      raycurate rank runs/llava --set sigma=1.0
    """
    config = config_of(RankConfig, {"label": label}, overrides)
    from raycurate.stages.rank import rank as stage

    in_session(functools.partial(stage, Run(run), config))


@main.command()
@run_argument
@click.option("--method", default="coincide", cls=MethodOption, help="A method's name:")
@click.option("--ratio", type=float, default=0.2, help="Part of all samples to keep.")
@click.option("--temperature", type=float, help="Of the budget's softmax (method coincide).")
@click.option("--seed", type=int, default=0)
@settings
def select(
    run: str, method: str, ratio: float, temperature: float | None, seed: int, label: str, overrides: tuple[str, ...]
) -> None:
    """Decide which samples stay.

    \b
    Example:
      raycurate select runs/llava --method coincide --ratio 0.2 --temperature 0.1
      raycurate select runs/llava --method d2_pruning --ratio 0.2 --set options.gamma_r=0.4 --label d2
    """
    values: dict[str, Any] = {"method": method, "ratio": ratio, "seed": seed, "label": label}
    if temperature is not None:
        values["options"] = {"temperature": temperature}
    config = config_of(SelectConfig, values, overrides)
    from raycurate.stages.select import select as stage

    in_session(functools.partial(stage, Run(run), config))


@main.command()
@run_argument
@click.option("--format", "format_", default="llava", help="llava, messages (TRL), parquet, sharegpt, swift.")
@click.option("--out", "path", required=True, help="File to write.")
@click.option("--selection", "--label", "selection", default="main", help="Label of the selection.")
@click.option("--samples", help="Label of the samples; default: those that the selection was made from.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="embed_images, content, images.")
def export(run: str, format_: str, path: str, selection: str, samples: str | None, overrides: tuple[str, ...]) -> None:
    """Write the kept samples as a dataset that trainers read.

    \b
    Example:
      raycurate export runs/llava --format llava --out coreset.json
    """
    config = config_of(
        ExportConfig, {"out": path, "format": format_, "selection": selection, "samples": samples}, overrides
    )
    from raycurate.stages.export import export as stage

    rows = stage(Run(run), config)
    out.print(f"[bold]export[/]    {rows:,} rows -> {plain(path)}", highlight=False)


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


@main.command()
@run_argument
def status(run: str) -> None:
    """Tell what is done, running and left in RUN.

    \b
    Example:
      raycurate status runs/llava
    """
    from raycurate.stages.engine.status import status as run_status

    table = Table("noun", "state", "rows", "of", "quarantined", "seconds")
    lines = run_status(Run(run))
    for line in lines:
        total = "?" if line.total is None else f"{line.total:,}"
        table.add_row(line.name, line.state, f"{line.rows:,}", total, str(line.quarantined), f"{line.seconds:.1f}")
    show_table(table)
    for line in lines:
        if line.why:
            out.print(f"[bold yellow]stale:[/] {plain(line.why)}", highlight=False)


for command in (
    settings_command,
    balance,
    finetune,
    evaluate,
    compare,
    compare_weights,
    sweep,
    individual_select,
    transferability,
    scaling,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
