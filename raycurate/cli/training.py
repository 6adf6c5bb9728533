"""The commands that come after a selection: finetune, evaluate, compare."""

from __future__ import annotations

from typing import Any

import click

from raycurate.cli.options import stage_command
from raycurate.cli.results import print_result
from raycurate.cli.support import parts, print_scoreboard, run_stage
from raycurate.errors import UserError
from raycurate.run.store import Run


def read_task_weights(_: click.Context, __: click.Parameter, path: str | None) -> dict[str, float] | None:
    """The weights in a JSON file."""
    from raycurate.training.weights import read_weights

    return None if path is None else read_weights(path)


def weights_option(text: str) -> Any:
    """The option that reads the weights of tasks from a file."""
    file = click.Path(exists=True, dir_okay=False)
    return click.option("--weights", type=file, callback=read_task_weights, help=text)


@stage_command("finetune")
@weights_option("JSON of task -> weight.")
def finetune(run: str, config: Any) -> None:
    """Train MODEL on the kept rows, each task with its weight (Ray Train, DeepSpeed).

    \b
    Example:
      raycurate finetune runs/llava --model llava-hf/llava-1.5-7b-hf --workers 8 --deepspeed zero3 --lora --merge
    """
    print_result(Run(run), run_stage("finetune", run, config))


def _read_metrics(_: click.Context, __: click.Parameter, text: str) -> dict[str, str] | None:
    if text == "auto":
        return None
    pairs = parts(text)
    if not pairs or not all("=" in pair for pair in pairs):
        raise UserError(f"--metrics {text!r} is neither 'auto' nor TASK=METRIC pairs, for example caption=cider")
    return dict(pair.split("=", 1) for pair in pairs)


@stage_command("evaluate")
@click.option(
    "--metrics",
    default="auto",
    callback=_read_metrics,
    help="auto, or TASK=METRIC[,TASK=METRIC...]; patterns allowed.",
)
def evaluate(run: str, config: Any) -> None:
    """Answer a test set's questions with MODEL and score the answers task by task.

    \b
    Example:
      raycurate evaluate runs/llava --model models/main --data test
    """
    print_result(Run(run), run_stage("evaluate", run, config))


@stage_command("compare")
def compare(run: str, config: Any) -> None:
    """Select, finetune and evaluate for every method and seed; print the scoreboard.

    \b
    Example:
      raycurate compare runs/demo --methods full,random,coincide --seeds 0,1,2 --ratio 0.2
    """
    run_stage("compare", run, config, quiet=True)
    print_scoreboard(Run(run).noun("scoreboard", config.label))
