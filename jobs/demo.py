"""The demo: real data in, a coreset and what it bought out, on one machine. ``make demo`` runs this.

Makes the demo dataset (easy-vqa's images and questions, scikit-learn's scanned digits), runs every stage of
``jobs/recipes/demo.yaml`` on it (the last one finetunes on the coreset and on as many random rows and scores both on
held-out images), and ends with what was chosen, what it bought and where it lies. A second run finds everything done.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from raycurate.cli.support import print_manifest, print_scoreboard
from raycurate.cli.views import print_report_place
from raycurate.demo.data import build_demo_dataset, scale_for_rows
from raycurate.pipeline import run_recipe
from raycurate.recipe import Recipe, load_recipe
from raycurate.report.page import write_report
from raycurate.run.store import Run

RECIPE = Path(__file__).parent / "recipes" / "demo.yaml"
console = Console(soft_wrap=True, highlight=False)


@click.command(context_settings={"show_default": True})
@click.option("--out", default="demo-run", help="Folder for the data, the run and the coreset.")
@click.option("--rows", type=int, help="Use about this many of the 50,325 rows.")
@click.option("--ratio", default=0.2, help="Part of the rows to keep.")
@click.option("--no-training", is_flag=True, help="Stop at the coreset.")
def main(out: str, rows: int | None, ratio: float, no_training: bool) -> None:
    """Curate the demo dataset with the embedded model, then finetune it on the coreset and on a random subset.

    \b
    Example:
      python jobs/demo.py --rows 5000 --ratio 0.1 --out /tmp/demo
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("raycurate").setLevel(logging.INFO)
    started = time.monotonic()
    scale = scale_for_rows(rows) if rows else 1.0
    data = build_demo_dataset(Path(out) / "data", scale=scale)
    console.print(f"[bold]data[/]      {data.train_rows:,} rows of {len(data.train_tasks)} tasks, {data.seconds:.1f} s")
    recipe = load_recipe(
        RECIPE,
        [
            f"run={out}/run",
            f"ingest.source={out}/data/train.json",
            f"ingest.images={out}/data",
            f"export.out={out}/coreset.json",
            f"test.source={out}/data/test.json",
            f"test.images={out}/data",
            f"select.ratio={ratio}",
            f"compare.ratio={ratio}",
            *(["compare=null", "test=null"] if no_training else []),
        ],
    )
    run_recipe(recipe, print_manifest)
    _show(recipe, out)
    if recipe.section("compare") is not None:
        print_scoreboard(Run(recipe.run).noun("scoreboard"))
    print_report_place(write_report(Run(recipe.run)))
    console.print(f"done in {time.monotonic() - started:.1f} s")


def _show(recipe: Recipe, out: str) -> None:
    """The tasks before and after, and the paths of what was written."""
    selection = Run(recipe.run).noun("selection")
    table = Table("task", "rows", "kept", "kept of task", "share before", "share after")
    for row in selection.read_table("tasks.parquet").to_pylist():
        table.add_row(
            row["task"],
            f"{row['rows']:,}",
            f"{row['kept']:,}",
            f"{row['kept'] / max(row['rows'], 1):.1%}",
            f"{row['share_before']:.1%}",
            f"{row['share_after']:.1%}",
        )
    console.print(table)
    for path, what in (
        (f"{out}/coreset.json", "the coreset, in LLaVA's format"),
        (f"{out}/run/selection/main/", "every row: kept or not, cluster, rank, score, reason; and the cluster table"),
        (f"{out}/run/quarantine/", "rejected rows with their reasons, if any"),
    ):
        console.print(f"{path:<36} {what}")


if __name__ == "__main__":
    main()
