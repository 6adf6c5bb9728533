"""The proving ground: a public benchmark for the selection of instruction data that two CPU cores can run.

\b
    make      33 tasks, the largest 100 times the smallest, with near-duplicates, wrong answers and five languages
    campaign  every method at every budget and seed: select, finetune, score (jobs/recipes/proving_ground.yaml)
    chance    per task, what the commonest test answer scores: a model must beat it to have learned the task

\b
Sources, all from packages (pip install 'raycurate[proving]'):
    easy-vqa                 MIT
    scikit-learn's digits    BSD-3-Clause; UCI's Optical Recognition of Handwritten Digits, CC BY 4.0
    fontawesomefree          icons CC BY 4.0, fonts SIL OFL 1.1, code MIT; brand icons are their owners' trademarks
    vega-datasets            MIT; tables keep their publishers' terms
    DejaVu (in matplotlib)   a free licence after Bitstream Vera
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from pathlib import Path

import click

from raycurate.cli.support import ReadableCommand, print_manifest
from raycurate.cli.sweep import print_sweep
from raycurate.demo.proving import build_proving_ground
from raycurate.errors import UserError
from raycurate.pipeline import run_recipe
from raycurate.recipe import load_recipe
from raycurate.run.store import Run

RECIPE = Path(__file__).parent / "recipes" / "proving_ground.yaml"


@click.group(help=__doc__)
def main() -> None:
    """Make the data, run the campaign, tell what chance gives."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("raycurate").setLevel(logging.INFO)


@main.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new or an empty folder.")
@click.option("--rows", default=20_000, help="Of train: 5000 for a smoke test, 20000, 100000.")
@click.option("--seed", default=0)
def make(out: Path, rows: int, seed: int) -> None:
    """Write train.json, validation.json, test.json and their images.

    \b
    Example:
      python jobs/proving_ground.py make --rows 5000 --out /tmp/proving
    """
    made = build_proving_ground(out, rows=rows, seed=seed)
    for part, tasks in made.tasks.items():
        click.echo(f"{part:<10} {sum(tasks.values()):>7,} rows of {len(tasks)} tasks")
    click.echo(f"faults     {made.wrong:,} wrong answers, {made.near:,} near-duplicates\ndigest     {made.digest}")


@main.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False), help="What `make` wrote.")
@click.option("--run", required=True, help="Run directory; the same one goes on where it stopped.")
@click.option("--set", "overrides", multiple=True, help="field=value of the recipe, as sweep.seeds=[0,1,2].")
def campaign(data: str, run: str, overrides: tuple[str, ...]) -> None:
    """Select with every method at every budget and seed, train on each selection, and score it.

    \b
    Example:
      python jobs/proving_ground.py campaign --data /tmp/proving --run /tmp/proving-run --set sweep.ratios=[0.2]
    """
    own = [
        f"run={run}",
        f"ingest.source={data}/train.json",
        f"ingest.images={data}",
        f"test.source={data}/test.json",
        f"test.images={data}",
    ]
    recipe = load_recipe(RECIPE, [*own, *overrides])
    run_recipe(recipe, print_manifest)
    print_sweep(Run(recipe.run).noun("sweeps", recipe.section("sweep").label))


@main.command(cls=ReadableCommand)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def chance(data: Path) -> None:
    """Print, per task, the part of test rows whose last answer is the commonest one.

    \b
    Example:
      python jobs/proving_ground.py chance --data /tmp/proving
    """
    for task, score in majority(data / "test.json").items():
        click.echo(f"{task:<16} {score:.3f}")


def majority(path: Path) -> dict[str, float]:
    """Task -> the part of its rows in the LLaVA file `path` that end with the commonest answer."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; `make` writes it") from None
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row["task"]][row["conversations"][-1]["value"]] += 1
    return {task: max(counts.values()) / counts.total() for task, counts in answers.items()}


if __name__ == "__main__":
    main()
