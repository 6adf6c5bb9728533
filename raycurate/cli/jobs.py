"""The commands behind ``jobs/*.py``: some sections of a recipe, as a job that may be submitted again.

A submitted job runs in Ray's own temporary copy of the working directory. Where the copy lies depends on its content,
and Ray deletes it when no job uses it, so a run directory inside it would be lost: it must be absolute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from raycurate.cli.balancing import print_balance
from raycurate.cli.results import print_result
from raycurate.cli.support import (
    ReadableCommand,
    out,
    plain,
    print_manifest,
    print_report,
    print_scoreboard,
    set_up_logging,
)
from raycurate.cli.sweep import print_sweep
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run

# Ray sets it for the entry point of a submitted job.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def recipe_job(sections: Sequence[str], text: str) -> click.Command:
    """A command that runs these sections of a recipe.

    Args:
        sections: their names, in any order.
        text: the help text.
    """

    @click.command(cls=ReadableCommand, help=text, context_settings={"help_option_names": ["-h", "--help"]})
    @click.option("--recipe", required=True, type=click.Path(exists=True, dir_okay=False), help="YAML, jobs/recipes/.")
    @click.option("--set", "overrides", multiple=True, metavar="STAGE.FIELD=VALUE", help="Change a setting.")
    @click.option("--debug", is_flag=True, help="Show tracebacks.")
    @click.option("--quiet", is_flag=True, help="No progress lines.")
    def job(recipe: str, overrides: tuple[str, ...], debug: bool, quiet: bool) -> None:
        set_up_logging(debug=debug, quiet=quiet)
        _run_sections(recipe, overrides, sections)

    return job


def _run_sections(path: str, overrides: Sequence[str], sections: Sequence[str]) -> None:
    from raycurate.recipe import load_recipe

    recipe = load_recipe(path, overrides)
    run = Run(recipe.run)
    out.print(f"[bold]run[/] {plain(run.uri)}", highlight=False)
    if SUBMITTED in os.environ and Path(recipe.run).is_relative_to(Path.cwd()):
        raise UserError(
            f"run is '{recipe.run}', inside of Ray's temporary copy of the working directory of a submitted job. "
            "Give a place that all nodes reach: --set run=s3://..., gs://... or an absolute shared path."
        )
    if not any(recipe.section(name) is not None for name in sections):
        raise UserError(f"{path} has none of the sections {', '.join(sections)}: add one (jobs/recipes/demo.yaml does)")
    from raycurate.pipeline import run_recipe

    def report(manifest: Manifest, seconds: float) -> None:
        print_manifest(manifest, seconds)
        print_result(run, manifest)

    run_recipe(recipe, report, sections=sections)
    if "balance" in sections and (config := recipe.section("balance")) is not None:
        print_balance(run.noun("balance", config.label).read_json("weights.json") or {})
    if "compare_weights" in sections and (config := recipe.section("compare_weights")) is not None:
        print_scoreboard(run.noun("weightings", config.label))
    if "compare" in sections and (config := recipe.section("compare")) is not None:
        print_scoreboard(run.noun("scoreboard", config.label))
    if "individual_select" in sections and (config := recipe.section("individual_select")) is not None:
        print_report(run.noun("individual_select", config.label))
    if "choose" in sections and (config := recipe.section("choose")) is not None:
        print_report(run.noun("choices", config.label))
    if "sweep" in sections and (config := recipe.section("sweep")) is not None:
        print_sweep(run.noun("sweeps", config.label))
