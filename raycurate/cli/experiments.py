"""The commands of experiments that train many times: individual-select, transferability, scaling."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from raycurate.cli.support import config_of, out, parts, plain, print_report, run_argument, settings
from raycurate.errors import UserError
from raycurate.run.store import Run

if TYPE_CHECKING:
    from raycurate.run.store import Manifest


@click.command("individual-select")
@click.option("--baseline", "run", required=True, help="Run directory whose samples are the baseline.")
@click.option("--candidates", multiple=True, required=True, metavar="[NAME=]PATH...", help="Datasets to try.")
@click.argument("more", nargs=-1, metavar="")
@click.option("--mode", default="parallel", help="parallel; sequential: chosen ones join the baseline.")
@click.option("--seeds", default="0,1", help="Of the baseline's trainings, two or more.")
@click.option("--category", "categories", multiple=True, metavar="NAME=CATEGORY", help="Of a candidate; repeatable.")
@click.option("--threshold-sds", default=1.0, help="Choose gains above so many deviations of the baseline.")
@click.option("--largest-drop", type=float, help="Points that no benchmark may fall.")
@click.option("--top", type=int, help="Most datasets of a category.")
@click.option("--cap", type=int, help="Most rows of a candidate, at random by task.")
@click.option("--perplexity-filter", type=float, help="Also try this part of each: lowest perplexity, and random.")
@click.option("--soup", default="", help="Also average the models: greedy, average, maximum.")
@click.option("--data", default="validation", help="Label of the samples to score on.")
@click.option("--model", default="tiny", help="Model to train: hub id, local folder, or 'tiny'.")
@settings
def individual_select(
    run: str,
    candidates: tuple[str, ...],
    more: tuple[str, ...],
    categories: tuple[str, ...],
    seeds: str,
    perplexity_filter: float | None,
    soup: str,
    model: str,
    label: str,
    overrides: tuple[str, ...],
    **rule: Any,
) -> None:
    """Choose which candidate datasets to add to a baseline, by training with each (arXiv 2405.11850).

    The thresholds are settings of this project: the paper's are not known. Score on rows that are not in the test.

    \b
    Example:
      raycurate individual-select --baseline runs/base --candidates ocr.json charts/ --category ocr=text --seeds 0,1,2
    """
    from raycurate.experiments.engine.individual_config import IndividualSelectConfig

    values: dict[str, Any] = {
        "candidates": _named([*candidates, *more]),
        "categories": dict(_pair("--category", text) for text in categories),
        "seeds": parts(seeds),
        "perplexity": perplexity_filter,
        "soup": parts(soup),
        "finetune": {"model": model},
        "label": label,
        **rule,
    }
    config = config_of(IndividualSelectConfig, values, overrides)
    from raycurate.experiments.individual_select import individual_select as stage

    _in_session(lambda: stage(Run(run), config), config.finetune)
    print_report(Run(run).noun("individual_select", label))


def _named(texts: Sequence[str]) -> dict[str, str]:
    """Dataset by name: the name given, or that of the file or folder."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or "/" in name:
            name, path = posixpath.basename(text.rstrip("/")).split(".")[0], text
        if name in found:
            raise UserError(f"two candidates are named '{name}': {found[name]} and {path}; give one as NAME=PATH")
        found[name] = path
    return found


def _pair(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UserError(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value


@click.command()
@run_argument
@click.option("--sources", default=50, help="Clusters whose help is measured.")
@click.option("--targets", default=50, help="Clusters that they help.")
@click.option("--rows", default=100, help="Rows of a cluster in a training.")
@click.option("--pairs", type=int, help="Train at most so many pairs, by fewer targets.  [default: all]")
@click.option("--clusters", default="main", help="Label of the clusters.")
@click.option("--model", default="tiny", help="Model to train: hub id, local folder, or 'tiny'.")
@settings
def transferability(
    run: str,
    sources: int,
    targets: int,
    rows: int,
    pairs: int | None,
    clusters: str,
    model: str,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Measure how much clusters help each other by training on pairs (COINCIDE, Eq. 4), and correlate with the proxy.

    \b
    Example:
      raycurate transferability runs/llava --sources 50 --targets 50 --rows 200 --set finetune.batch_rows=16
    """
    from raycurate.balancing.correlation import Correlation
    from raycurate.experiments.transferability import TransferabilityConfig, measure_transferability

    values: dict[str, Any] = {
        "sources": sources,
        "targets": targets,
        "rows": rows,
        "pairs": pairs,
        "clusters": clusters,
        "finetune": {"model": model},
        "label": label,
    }
    config = config_of(TransferabilityConfig, values, overrides)
    made = _in_session(lambda: measure_transferability(Run(run), config), config.finetune)
    for name in ("pearson", "spearman"):
        found = Correlation(**made.metrics[name])
        out.print(f"{name.capitalize()}'s correlation of T with S: {found}", markup=False, highlight=False)
    if "why_none" in made.metrics:
        out.print(f"[bold yellow]warning:[/] {plain(made.metrics['why_none'])}", highlight=False)
    folder = plain(Run(run).noun("transferability", label).folder)
    out.print(f"[bold]transferability[/] {made.metrics['pairs']} pairs -> {folder}", highlight=False)


@click.command()
@run_argument
@click.option("--sizes", required=True, help="Rows of each subset, ascending: 1000,10000,...")
@click.option("--stage", default="finetune", help="finetune; pretrain: the projector alone is trained.")
@click.option("--seeds", default="0", help="Of the subsets and of the trainings.")
@click.option("--data", default="test", help="Label of the samples to score on.")
@click.option("--model", default="tiny", help="Model to train: hub id, local folder, or 'tiny'.")
@settings
def scaling(
    run: str, sizes: str, stage: str, seeds: str, data: str, model: str, label: str, overrides: tuple[str, ...]
) -> None:
    """Train on nested random subsets of growing size, and score each: does more data help?

    \b
    Example:
      raycurate scaling runs/llava --sizes 1000,10000,100000 --stage pretrain --seeds 0,1
    """
    from raycurate.experiments.scaling import ScalingConfig, measure_scaling

    values: dict[str, Any] = {
        "sizes": parts(sizes),
        "stage": stage,
        "seeds": parts(seeds),
        "data": data,
        "finetune": {"model": model},
        "label": label,
    }
    config = config_of(ScalingConfig, values, overrides)
    _in_session(lambda: measure_scaling(Run(run), config), config.finetune)
    print_report(Run(run).noun("scaling", label))


def _in_session(call: Callable[[], Manifest], finetune: dict[str, Any]) -> Manifest:
    """Run an experiment on the cluster, or on a local one; Ray Train, where a training uses it, needs the dashboard."""
    from raycurate.config import SessionConfig
    from raycurate.ray_session import ray_session

    dashboard = finetune.get("workers", 1) != 1 or finetune.get("deepspeed") is not None
    with ray_session(SessionConfig(dashboard=dashboard)):  # type: ignore[call-arg]
        return call()
