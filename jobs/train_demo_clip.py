"""Train a small CLIP on the demo dataset: `python jobs/train_demo_clip.py --data demo-run/data --out demo-run/clip`.

For `raycurate score --scores clip --clip demo-run/clip` where no model hub can be reached. It has seen the demo's
training rows only and stands in for no published checkpoint: see `raycurate/demo/clip.py`.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from raycurate.demo.clip import GROUP, retrieval, train_clip


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("demo-run/data"), help="The demo dataset.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-run/clip"), help="Folder for the model.")
@click.option("--steps", default=400, help="Batches of 128 rows.")
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--seed", default=0)
def main(data: Path, out: Path, steps: int, threads: int, seed: int) -> None:
    """Train on train.json, save model and processor, and say what it can do on test.json."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    loss = train_clip(data / "train.json", out, steps=steps, seed=seed)
    click.echo(f"trained in {time.monotonic() - started:.0f} s, last loss {loss:.3f}; model in {out}")
    right = retrieval(out, data / "test.json")
    click.echo(f"held-out images whose own text is the nearest of {GROUP}: {right:.1%} (blind choice {1 / GROUP:.1%})")


if __name__ == "__main__":
    main()
