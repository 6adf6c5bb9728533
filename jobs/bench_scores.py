"""What each score of a row costs, alone and beside the others, in milliseconds a row of one model on one device.

    losses      the pass of `perplexity`, `el2n` and `d2_pruning`: what all others are compared with
    + blind     the answers without their image as well: `visual_gain`, `dics`
    + last      gradients of the last attention's output projection beside the losses: `tive`
    last        the same gradients alone
    + all       gradients of all attention beside the losses
    all         the same gradients alone
    visual      the image's tokens before the first layer, alone: `prism`, the images of `presel`
    attended    those of them that the question attends to, after the first layer, alone: `scalselect`
    weighted    the last layer's mean, alone: `targeted`
    + these     all three beside the losses
    unasked     losses of all answers to the image alone: with the losses, what `presel` takes of its 5 %

The same batches of the demo's rows, loaded before; the passes take turns and the fastest of a few rounds counts.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from bench import _medium_vlm, console, machine

PASSES: dict[str, dict[str, Any]] = {
    "losses": {},
    "+ blind": {"blind": True},
    "+ last": {"gradients": "last"},
    "last": {"losses": False, "gradients": "last"},
    "+ all": {"gradients": "all"},
    "all": {"losses": False, "gradients": "all"},
    "visual": {"losses": False, "embeddings": ("visual",)},
    "attended": {"losses": False, "embeddings": ("attended",)},
    "weighted": {"losses": False, "embeddings": ("weighted_token",)},
    "+ these": {"embeddings": ("visual", "attended", "weighted_token")},
    "unasked": {"unasked": True},
}


def batches_of(vlm: Any, folder: Path, rows: int, batch_tokens: int) -> dict[str, list[Any]]:
    """Batches of the demo's rows as they are, without their images, and without their questions."""
    from PIL import Image

    from raycurate.demo.data import build_demo_dataset, scale_for_rows
    from raycurate.encoding.token_batches import AnswerPreparer, without_questions

    build_demo_dataset(folder, scale=scale_for_rows(rows))
    roles = {"human": "user", "gpt": "assistant"}
    samples: list[dict[str, Any]] = []
    for row in json.loads((folder / "train.json").read_text(encoding="utf-8"))[:rows]:
        messages = [{"role": roles[turn["from"]], "text": turn["value"]} for turn in row["conversations"]]
        images = [folder / row["image"]] if "image" in row else []
        opened = [Image.open(path).convert("RGB") for path in images]
        samples.append({"key": str(len(samples)), "messages": messages, "images": opened, "image_keys": images})
    preparer = AnswerPreparer(vlm.processor, max_length=4096, token_budget=batch_tokens, max_rows=256)
    bare = [without_questions(sample) for sample in samples if sample["images"]]
    made = {}
    for name, blind, chosen in (("seen", False, samples), ("blind", True, samples), ("unasked", False, bare)):
        windows = [chosen[start : start + 256] for start in range(0, len(chosen), 256)]
        made[name] = [batch for window in windows for batch in preparer.prepare_answers(window, blind=blind)[0]]
    return made


def milliseconds(vlm: Any, batches: dict[str, list[Any]], repeats: int) -> dict[str, float]:
    """Per row of each pass."""
    from raycurate.features.gradient_sketches import GradientSketcher
    from raycurate.features.token_scores import TokenScorer

    def scorers(settings: dict[str, Any]) -> list[tuple[Any, list[Any]]]:
        sketcher = GradientSketcher(vlm, layers=settings["gradients"]) if "gradients" in settings else None
        embeddings = settings.get("embeddings", ())
        own = TokenScorer(vlm, losses=settings.get("losses", True), embeddings=embeddings, gradients=sketcher)
        if settings.get("unasked"):
            return [(own, batches["unasked"])]
        return [(own, batches["seen"])] + ([(own, batches["blind"])] if settings.get("blind") else [])

    made = {name: scorers(settings) for name, settings in PASSES.items()}
    fastest = dict.fromkeys(made, float("inf"))
    for parts in made.values():
        for scorer, held in parts:
            scorer.score(held[0])
    for _ in range(repeats):
        for name, parts in made.items():
            began = time.perf_counter()
            for scorer, held in parts:
                for batch in held:
                    scorer.score(batch)
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    rows = sum(batch.num_rows for batch in batches["seen"])
    return {name: 1000 * seconds / rows for name, seconds in fastest.items()}


@click.command(context_settings={"show_default": True})
@click.option("--model", default="tiny", help="'tiny', 'medium' (0.2 B parameters, random weights), or a model.")
@click.option("--rows", default=1024, help="Rows of the demo.")
@click.option("--batch-tokens", default=16_384, help="Padded tokens in a batch.")
@click.option("--threads", default=1, help="Threads of torch on a CPU.")
@click.option("--repeats", default=3, help="Rounds; the fastest of each pass counts.")
def main(model: str, rows: int, batch_tokens: int, threads: int, repeats: int) -> None:
    """Measure the passes of `raycurate score` side by side.

    \b
    Example:
      python jobs/bench_scores.py --model tiny --rows 1024
    """
    import torch

    from raycurate.models.adapter import load_vlm

    torch.set_num_threads(threads)
    console.print(f"[bold]{machine()}[/]")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = str(_medium_vlm(folder / "model")) if model == "medium" else model
        vlm = load_vlm(source, device="cuda" if torch.cuda.is_available() else "cpu")
        batches = batches_of(vlm, folder / "data", rows, batch_tokens)
        found = milliseconds(vlm, batches, repeats)
    console.print(f"{model}, {vlm.dtype}, {rows} rows, {threads} threads")
    for name, value in found.items():
        console.print(f"{name:<10} {value:>9.3f} ms/row   {value / found['losses']:>6.3f} of losses")


if __name__ == "__main__":
    main()
