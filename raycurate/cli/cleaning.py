"""The commands that clean: dedup, decontaminate, forget."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from raycurate.cli.options import stage_command
from raycurate.cli.results import show_table
from raycurate.cli.support import ReadableCommand, out, plain, run_argument, run_stage
from raycurate.run.store import Run


@stage_command("dedup")
def dedup(run: str, config: Any) -> None:
    """Mark the rows that say what another row says; `select` leaves them out, nothing is deleted.

    \b
    Example:
      raycurate dedup runs/llava
      raycurate dedup runs/llava --clusters main --cosine 0.99 --set words=0.9
    """
    _print_marks(run, run_stage("dedup", run, config))


@stage_command("decontaminate")
def decontaminate(run: str, config: Any) -> None:
    """Mark the rows that tell of a test set: its rows, its pictures (re-encoded, cropped a little), its words.

    \b
    Example:
      raycurate decontaminate runs/llava --against test
      raycurate decontaminate runs/llava --against gqa_test.json --set against_images=gqa/images
    """
    _print_marks(run, run_stage("decontaminate", run, config))


@click.command(cls=ReadableCommand)
@run_argument
@click.option("--keys", required=True, metavar="FILE", help="Text file with the key of a row in each line.")
def forget(run: str, keys: str) -> None:
    """Remove rows from every noun of RUN, keep them out of it, and look that no file of it names them.

    \b
    Example:
      raycurate forget runs/llava --keys withdrawn.txt
    """
    from raycurate.stages.forget import forget as stage

    removed = stage(Run(run), keys)
    out.print(f"[bold]forget[/]    {removed.rows:,} rows left {plain(', '.join(removed.rewritten)) or 'nothing'}")
    for name, commands in {**removed.deleted, **removed.exports}.items():
        out.print(f"          {plain(name)} is gone. Made again by {plain(commands)}", highlight=False)
    for place in removed.changed:
        out.print(f"          {plain(place)} may hold the rows: it was changed since its export, and is left to you")
    if removed.unknown:
        out.print(f"          {removed.unknown:,} of the keys were named nowhere in the run")
    out.print("Not reached: the source, images, copies of exports, and what models have learned.")


def _print_marks(run: str, manifest: Any) -> None:
    """Rows by reason, with two of them each."""
    noun = Run(run).noun(manifest.noun, manifest.label)
    summary: dict[str, Any] = noun.read_json("summary.json") or {}
    table = Table("reason", "row", "is like", box=None, padding=(0, 2, 0, 0))
    table.add_column("rows", justify="right")
    table.add_column("similarity", justify="right")
    for reason, count in sorted(summary["reasons"].items()):
        for number, row in enumerate(summary["examples"][reason]):
            shown = (row["source_id"] or row["key"], row["like_source_id"] or row["like"])
            first = (reason, f"{count:,}") if number == 0 else ("", "")
            table.add_row(first[0], *map(escape, map(str, shown)), first[1], f"{row['similarity']:.3f}")
    if summary["reasons"]:
        show_table(table)
    for cosine, rows in summary.get("rows_by_cosine", {}).items():
        out.print(f"{rows:,} rows have one before them in their cluster at a cosine of {cosine} or more")
    out.print(f"[bold]marks[/]     {plain(noun.folder)}; `raycurate select` leaves them out", highlight=False)
