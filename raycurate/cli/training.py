"""The commands that come after a selection: finetune, evaluate, compare."""

from __future__ import annotations

import functools
from typing import Any

import click

from raycurate.cli.results import print_result
from raycurate.cli.support import config_of, in_session, parts, print_scoreboard, run_argument, settings
from raycurate.errors import UserError
from raycurate.run.store import Run


@click.command()
@run_argument
@click.option("--model", default="tiny", help="Hub id, local folder, or 'tiny' (embedded).")
@click.option("--selection", default="main", help="Label of the selection; 'none' trains on all samples.")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="JSON of task -> weight.")
@click.option("--weighting", help="Weights that change while it trains: ew, tla, rlw, dwa, igb; instead of --weights.")
@click.option("--score-net", help="Features, mostly clip: learn how hard each row is, for the method self_filter.")
@click.option("--workers", default=1, help="Training processes, one GPU each where there are GPUs.")
@click.option("--deepspeed", help="zero2, zero3, or a DeepSpeed JSON file.")
@click.option("--lora/--full", default=True, help="LoRA on the decoder, or all of its weights.")
@click.option("--merge", is_flag=True, help="Also write the merged model.")
@click.option("--learning-rate", type=float, help="Default: 2e-4 with LoRA, 2e-5 without.")
@click.option("--epochs", type=float, default=1.0)
@click.option("--batch-rows", type=int, default=128, help="Rows of one optimizer step, over all workers.")
@click.option("--seed", type=int, default=0)
@settings
def finetune(
    run: str,
    model: str,
    selection: str,
    weights: str | None,
    weighting: str | None,
    score_net: str | None,
    workers: int,
    deepspeed: str | None,
    lora: bool,
    merge: bool,
    learning_rate: float | None,
    epochs: float,
    batch_rows: int,
    seed: int,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Train MODEL on the kept rows, each task with its weight (Ray Train, DeepSpeed).

    \b
    Example:
      raycurate finetune runs/llava --model llava-hf/llava-1.5-7b-hf --workers 8 --deepspeed zero3 --lora --merge
    """
    from raycurate.training.config import FinetuneConfig
    from raycurate.training.weights import read_weights

    values: dict[str, Any] = {
        "model": model,
        "selection": None if selection == "none" else selection,
        "weights": read_weights(weights) if weights else None,
        "weighting": weighting,
        "score_net": score_net,
        "workers": workers,
        "deepspeed": deepspeed,
        "method": "lora" if lora else "full",
        "merge": merge,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_rows": batch_rows,
        "seed": seed,
        "label": label,
    }
    if selection == "none":
        overrides = (*overrides, "selection=null")
    config = config_of(FinetuneConfig, values, overrides)
    from raycurate.stages.finetune import finetune as stage

    in_session(functools.partial(stage, Run(run), config), dashboard=True)
    print_result(Run(run), Run(run).noun("models", config.label).require("finetune"))


@click.command()
@run_argument
@click.option("--model", required=True, help="Hub id, folder, 'tiny', or models/LABEL of the run.")
@click.option("--data", help="Label of the test set's samples (`raycurate ingest TEST --out RUN --label test`).")
@click.option("--metrics", default="auto", help="auto, or TASK=METRIC[,TASK=METRIC...]; patterns allowed.")
@click.option("--max-rows", type=int, help="Only this many test rows, the first by a hash of their key.")
@click.option("--command", help="An external evaluator; {model} is the merged checkpoint, {output} a folder.")
@settings
def evaluate(
    run: str,
    model: str,
    data: str | None,
    metrics: str,
    max_rows: int | None,
    command: str | None,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Answer a test set's questions with MODEL and score the answers task by task.

    \b
    Example:
      raycurate evaluate runs/llava --model models/main --data test
    """
    from raycurate.evaluation.config import EvaluateConfig

    pairs = parts(metrics) if all("=" in part for part in parts(metrics)) else []
    chosen = {} if metrics == "auto" else dict(part.split("=", 1) for part in pairs)
    if metrics != "auto" and not pairs:
        raise UserError(f"--metrics {metrics!r} is neither 'auto' nor TASK=METRIC pairs, for example caption=cider")
    values = {"model": model, "data": data, "metrics": chosen, "max_rows": max_rows, "command": command, "label": label}
    config = config_of(EvaluateConfig, values, overrides)
    from raycurate.stages.evaluate import evaluate as stage

    in_session(functools.partial(stage, Run(run), config))
    print_result(Run(run), Run(run).noun("scores", config.label).require("evaluate"))


@click.command()
@run_argument
@click.option("--methods", default="full,random,stratified,coincide", help="Selection methods; full = all rows.")
@click.option("--seeds", default="0,1,2", help="Of selection and training.")
@click.option("--ratio", default=0.2, help="Part of all samples that a method keeps.")
@click.option("--data", default="test", help="Label of the test set's samples.")
@click.option("--max-test-rows", type=int, help="Only this many test rows.")
@settings
def compare(
    run: str,
    methods: str,
    seeds: str,
    ratio: float,
    data: str,
    max_test_rows: int | None,
    label: str,
    overrides: tuple[str, ...],
) -> None:
    """Select, finetune and evaluate for every method and seed; print the scoreboard.

    \b
    Example:
      raycurate compare runs/demo --methods full,random,coincide --seeds 0,1,2 --ratio 0.2
    """
    from raycurate.evaluation.config import CompareConfig

    values = {
        "methods": parts(methods),
        "seeds": parts(seeds),
        "ratio": ratio,
        "data": data,
        "max_test_rows": max_test_rows,
        "label": label,
    }
    config = config_of(CompareConfig, values, overrides)
    from raycurate.config import SessionConfig
    from raycurate.ray_session import ray_session
    from raycurate.stages.compare import compare as stage

    with ray_session(SessionConfig(dashboard=True)):  # type: ignore[call-arg]
        stage(Run(run), config)
    print_scoreboard(Run(run).noun("scoreboard", label))
