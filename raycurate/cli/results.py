"""What commands print of a result beside its line: where a checkpoint lies, scores by task, tables in full width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from raycurate.cli.support import out, plain
from raycurate.run.store import Run

if TYPE_CHECKING:
    from raycurate.run.manifest import Manifest


def print_result(run: Run, manifest: Manifest) -> None:
    """What a training or an evaluation came to; nothing for other nouns."""
    if manifest.noun == "models":
        _print_model(run, manifest)
    elif manifest.noun == "scores":
        _print_scores(run, manifest)


def _print_model(run: Run, manifest: Manifest) -> None:
    noun = run.noun("models", manifest.label)
    config, metrics = manifest.description["config"], manifest.metrics
    adapter = config.get("method") == "lora"
    kind = f"LoRA adapter of {config['model']}" if adapter else "whole model"
    out.print(f"loss {metrics['loss']:.4f} over {metrics['steps']:,} steps", highlight=False)
    out.print(f"[bold]checkpoint[/] {plain(noun.uri_of('final'))} ({plain(kind)})", highlight=False)
    if adapter and config.get("merge"):
        out.print(f"[bold]merged[/]     {plain(noun.uri_of('merged'))}", highlight=False)


def _print_scores(run: Run, manifest: Manifest) -> None:
    noun = run.noun("scores", manifest.label)
    scores = noun.read_json("scores.json") or {}
    table = Table("task", "metric", box=None, padding=(0, 2, 0, 0))
    table.add_column("score", justify="right")
    for task, metrics in manifest.metrics["headlines"].items():
        for metric, higher in metrics.items():
            name = metric if higher else f"{metric} (lower is better)"
            table.add_row(escape(task), escape(name), f"{scores[task][metric]:.4f}")
    show_table(table)
    for note in manifest.metrics.get("notes", ()):
        out.print(f"[bold yellow]warning:[/] {plain(note)}", highlight=False)
    out.print(f"[bold]scores[/] {plain(noun.uri_of('scores.json'))}", highlight=False)


def show_table(table: Table) -> None:
    """Print a table in its own width: a name that is cut off is worse than a line that the terminal wraps."""
    width = Measurement.get(out, out.options.update(width=10_000), table).maximum
    Console(file=out.file, width=max(out.width, width), emoji=False).print(table)
