"""The commands of experiments that train many times: choose, individual-select, transferability, scaling."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

import click

from raycurate.cli.options import command_config, model_option, stage_command
from raycurate.cli.support import out, plain, print_report, run_stage
from raycurate.errors import UserError
from raycurate.run.store import Run


@stage_command("choose")
@model_option
def choose(run: str, config: Any) -> None:
    """Train on small selections of each method, and take one that is proven better than `balanced`, if any is.

    `select --method auto` follows what is taken. A validation set that is not the test set must be in the run.

    \b
    Example:
      raycurate ingest val.json --images images/ --out runs/mine --label validation
      raycurate choose runs/mine --methods stratified,coincide --model tiny --ratio 0.2
      raycurate select runs/mine --method auto --ratio 0.2
    """
    run_stage("choose", run, config, quiet=True)
    print_report(Run(run).noun("choices", config.label))


@stage_command("individual-select", on_run=False, raw=True)
@click.option("--baseline", "run", required=True, help="Run directory whose samples are the baseline.")
@click.option("--candidates", multiple=True, required=True, metavar="[NAME=]PATH...", help="Datasets to try.")
@click.argument("more", nargs=-1, metavar="")
@model_option
def individual_select(run: str, given: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """Choose which candidate datasets to add to a baseline, by training with each (arXiv 2405.11850).

    The thresholds are settings of this project: the paper's are not known. Score on rows that are not in the test.

    \b
    Example:
      raycurate individual-select --baseline runs/base --candidates ocr.json charts/ --category ocr=text --seeds 0,1,2
    """
    candidates = _named([*given.pop("candidates"), *given.pop("more")])
    config = command_config({**given, "candidates": candidates}, overrides)
    run_stage("individual-select", run, config, quiet=True)
    print_report(Run(run).noun("individual_select", config.label))


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


@stage_command("transferability")
@model_option
def transferability(run: str, config: Any) -> None:
    """Measure how much clusters help each other by training on pairs (COINCIDE, Eq. 4), and correlate with the proxy.

    \b
    Example:
      raycurate transferability runs/llava --sources 50 --targets 50 --rows 200 --set finetune.batch_rows=16
    """
    from raycurate.balancing.correlation import Correlation

    made = run_stage("transferability", run, config, quiet=True)
    for name in ("pearson", "spearman"):
        found = Correlation(**made.metrics[name])
        out.print(f"{name.capitalize()}'s correlation of T with S: {found}", markup=False, highlight=False)
    if "why_none" in made.metrics:
        out.print(f"[bold yellow]warning:[/] {plain(made.metrics['why_none'])}", highlight=False)
    folder = plain(Run(run).noun("transferability", config.label).folder)
    out.print(f"[bold]transferability[/] {made.metrics['pairs']} pairs -> {folder}", highlight=False)


@stage_command("scaling")
@model_option
def scaling(run: str, config: Any) -> None:
    """Train on nested random subsets of growing size, and score each: does more data help?

    \b
    Example:
      raycurate scaling runs/llava --sizes 1000,10000,100000 --stage pretrain --seeds 0,1
    """
    run_stage("scaling", run, config, quiet=True)
    print_report(Run(run).noun("scaling", config.label))
