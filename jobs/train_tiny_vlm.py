"""Train the embedded tiny vision-language model again: `python jobs/train_tiny_vlm.py --out DIR`."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import torch

from raycurate.models.tiny.train import train_tiny_model


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the trained model.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/tiny"), help="Folder for checkpoints.")
@click.option("--images", default=160_000, show_default=True, help="Scenes for the vision tower.")
@click.option("--rows", default=80_000, show_default=True, help="Multi-turn rows for the whole model.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, work: Path, images: int, rows: int, threads: int, seed: int) -> None:
    """Train the tiny model on the procedural corpus and write its weights."""
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(threads)
    losses = train_tiny_model(out, work, images=images, rows=rows, seed=seed)
    click.echo(f"last losses: {', '.join(f'{stage} {loss:.4f}' for stage, loss in losses.items())}; model in {out}")


if __name__ == "__main__":
    main()
