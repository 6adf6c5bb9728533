"""The command `init`."""

from __future__ import annotations

from typing import Any

import click

from raycurate.cli.support import ReadableCommand, out, plain
from raycurate.init import TARGETS


@click.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.argument("folder", metavar="[DIR]", default=".")
@click.option("--data", "source", required=True, help="File, folder, glob or URI of the dataset.")
@click.option("--target", type=click.Choice(TARGETS), default="local", help="Where it will run.")
@click.option("--images", help="Root of the image paths; default: the folder of the data, or images/ in it.")
@click.option("--format", "format_", default="auto", help="Of the data, as `raycurate ingest --format` has it.")
@click.option("--columns", help="Of a table, as question=q,answer=a,image=i.")
@click.option(
    "--storage", metavar="URI", help="Bucket or shared folder for the run; default: the data's bucket, or DIR."
)
@click.option(
    "--model", help="Reference model; default: tiny without a GPU, else one of 1.4 B parameters from the hub."
)
@click.option("--ratio", type=click.FloatRange(0, 1, min_open=True), default=0.2, help="Part of the rows to keep.")
@click.option("--nodes", type=click.IntRange(1), default=1, help="Nodes of a Slurm allocation.")
@click.option("--cpus", type=click.IntRange(2), default=8, help="Cores of each Slurm node.")
@click.option("--gpus", type=click.IntRange(0), default=1, help="GPUs of each Slurm node.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(
    folder: str, source: str, images: str | None, format_: str, columns: str | None, force: bool, **wishes: Any
) -> None:
    """Look at a dataset, and write a recipe that fits it, the files of a cluster and the commands to run into DIR.

    \b
    Example:
      raycurate init mine --data train.json --images images/
      raycurate init mine --data s3://bucket/train.jsonl --images s3://bucket/images --target aws
      raycurate init mine --data train.json --target slurm --nodes 4 --gpus 8
    """
    from raycurate.cli.options import named_value
    from raycurate.cli.support import parts
    from raycurate.config import IngestConfig
    from raycurate.init.files import README, Wishes, files_for, write_files
    from raycurate.init.look import look_at
    from raycurate.run.filesystem import absolute
    from raycurate.settings import make_config

    named = dict(named_value("--columns", pair) for pair in parts(columns)) if columns else None
    settings = {"source": source, "images": images, "format": format_, "columns": named}
    config = make_config(IngestConfig, {name: value for name, value in settings.items() if value is not None})
    look = look_at(config)
    made = files_for(Wishes(absolute(folder), ingest=config, **wishes), look)
    written = write_files(absolute(folder), made, force=force)
    rows = f"{look.rows:,} rows" if look.counted else f"about {look.rows:,} rows"
    rejected = f", {sum(look.rejects.values()):,} of {look.parsed:,} cannot be used" if look.rejects else ""
    out.print(f"[bold]data[/]      {rows}, {len(look.tasks)} tasks seen{rejected}", highlight=False)
    for path in written:
        out.print(f"[bold]wrote[/]     {plain(path)}", highlight=False)
    for line in made[README].splitlines():
        if line.startswith(("## ", "- ", "    ")):
            out.print(plain(line.removeprefix("## ")), highlight=False)
