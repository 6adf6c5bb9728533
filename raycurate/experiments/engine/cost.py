"""What the trainings of an experiment will take: by formula before the first, by what the first took after it.

    cost:    seconds of each: FLOP of the training and of its answers, rates of the machine (`raycurate.estimate`)
    before:  makespan of the costs, the largest first on as many slots as trials run at once
    after:   the same, each cost x seconds of the first trial / its cost

Both are log lines; the manifest has them beside what all took (`estimated_seconds`, `expected_seconds`, `seconds`). A
formula that lacks a fact (an unknown card, an external evaluator) leaves the first without seconds; the costs are then
rows. Cost: one task that reads the model's configuration and some rows, beside trainings of minutes; none for a single
training.
"""

from __future__ import annotations

import heapq
import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raycurate.errors import UserError
from raycurate.estimate.formulas import loading_work, table_work
from raycurate.estimate.rates import Rates, rates_here
from raycurate.estimate.source import Source, read_samples
from raycurate.estimate.training import evaluate_work, trainer_work
from raycurate.estimate.work import LOADERS, TASKS, Work, duration
from raycurate.evaluation.config import EvaluateConfig
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.engine.foreseen import IMAGES, PARTS, ROWS, ModelSize, seconds_here, sized_model
from raycurate.stages.engine.shards import map_tasks
from raycurate.training.config import FinetuneConfig

Training = tuple[FinetuneConfig, Mapping[str, Any] | None]
"""Settings of a finetune, and of `evaluate` but for its model; None: it is not scored by answers."""
SAID = ("training_seconds", "evaluation_seconds")
FEWEST = 2
"""Trainings whose cost is worth a look at the model."""
log = logging.getLogger("raycurate")


def makespan(costs: Iterable[float], at_once: int) -> float:
    """When the last of some trials ends, which begin in falling order of their costs, each on the slot that is free."""
    ends = [0.0] * at_once
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)


def tell_before(
    noun: Noun, name: str, run: Run, trainings: Sequence[Training], at_once: int, gpus: float, cpus: float
) -> list[float]:
    """Say what some trainings will take; return the cost of each: seconds, or rows where these are not known.

    Args:
        noun: of the experiment, begun.
        name: of these trials in it.
        run: holds the rows.
        trainings: that have no result yet.
        at_once: of them.
        gpus: of one training.
        cpus: of one training.
    """
    if len(trainings) < FEWEST:
        return [1.0] * len(trainings)
    seconds = _seconds(run, trainings, gpus, cpus)
    each = "" if seconds is None else f" of about {statistics.fmean(seconds):,.0f} s"
    # Each process starts once.
    whole = None if seconds is None else makespan(seconds, at_once) + rates_here().worker_seconds
    total = "" if whole is None else f": {duration(whole)} by formula"
    noun.foresee_trials(name, estimated=whole)
    log.info("%s/%s: %d trainings%s, %d at once%s", noun.noun, noun.label, len(trainings), each, at_once, total)
    return seconds or [rows_of(run, config) * config.epochs for config, _ in trainings]


def tell_selections(noun: Noun, name: str, rows: int, left: int, at_once: int) -> None:
    """Say what some selections of `rows` rows will take, each in one process."""
    if left >= FEWEST:
        each = seconds_here(table_work(rows, rates_here(), passes=2.0), cpus=1.0)
        seconds = None if each is None else makespan([each] * left, at_once)
        told = "" if seconds is None else f": {duration(seconds)} by formula"
        noun.foresee_trials(name, estimated=seconds)
        log.info("%s/%s: %d selections, %d at once%s", noun.noun, noun.label, left, at_once, told)


def tell_after_first(
    noun: Noun, name: str, costs: Mapping[str, float], at_once: int
) -> Callable[[str, Mapping[str, Any]], None]:
    """What is told the key and result of each trial, and says of the first what the others will take.

    Args:
        noun: of the experiment, begun.
        name: of these trials in it.
        costs: key -> cost of the trials that have no result yet, in any unit.
        at_once: of them.
    """

    waiting = len(costs) > 1

    def tell(key: str, result: Mapping[str, Any]) -> None:
        nonlocal waiting
        if not waiting:
            return
        waiting = False
        seconds = sum(result[name] for name in SAID) if SAID[0] in result else sum(result["seconds"].values())
        whole = makespan((seconds * cost / costs[key] for cost in costs.values()), at_once)
        noun.foresee_trials(name, expected=whole)
        log.info(
            "%s/%s: the first trial took %.1f s: about %s for the other %d, %d at once",
            *(noun.noun, noun.label, seconds, duration(whole - seconds), len(costs) - 1, at_once),
        )

    return tell


def _seconds(run: Run, trainings: Sequence[Training], gpus: float, cpus: float) -> list[float] | None:
    """Seconds of each training; None where something is not known."""
    sizes: dict[tuple[str, str], ModelSize | None] = {}
    tests: dict[str, Source] = {}
    found: list[float] = []
    try:
        for config, evaluation in trainings:
            label = config.mixture[0].samples if config.mixture else config.samples
            if (config.model, label) not in sizes:
                asked = (config.model, run.noun("samples", label), config.trust_remote_code)
                sizes[config.model, label] = next(map_tasks(sized_model, [asked]))
            size = sizes[config.model, label]
            if size is None:
                return None
            seconds = seconds_here(_work(run, config, evaluation, size, tests, gpus > 0, rates_here()), gpus, cpus)
            if seconds is None:
                return None
            found.append(seconds)
    except UserError as error:
        log.debug("no estimate of trainings: %s", error)
        return None
    return found


def _work(
    run: Run,
    config: FinetuneConfig,
    evaluation: Mapping[str, Any] | None,
    size: ModelSize,
    tests: dict[str, Source],
    on_card: bool,
    rates: Rates,
) -> Work:
    """One training and its answers, in a process that is there."""
    rows = rows_of(run, config)
    work = trainer_work(rows, size.source, size.tokens, size.geometry, rates, config, on_card=on_card)
    work = work.plus(loading_work(rows, size.source, size.tokens, rates))
    if evaluation is not None:
        if evaluation.get("data") is None:
            raise UserError("an external evaluator is not estimated")
        asked = make_config(EvaluateConfig, {**evaluation, "model": config.model}, "evaluate")
        work = work.plus(_answering(run, asked, size, tests, on_card, rates))
    return replace(work.without((LOADERS, TASKS)), starts=0.0)


def _answering(
    run: Run, config: EvaluateConfig, size: ModelSize, tests: dict[str, Source], on_card: bool, rates: Rates
) -> Work:
    assert config.data is not None, "checked before"
    if config.data not in tests:
        noun = run.noun("samples", config.data)
        tests[config.data] = read_samples(noun, noun.require("ingest"), parts=PARTS, rows=ROWS, images=IMAGES)
    test = tests[config.data]
    rows = sum(min(count, config.max_rows_per_task or count) for task, count in _asked(test, config))
    asked = float(min(rows, config.max_rows or rows))
    return evaluate_work(asked, test, size.tokens, size.geometry, rates, config, on_card=on_card)


def _asked(test: Source, config: EvaluateConfig) -> list[tuple[str, int]]:
    """The tasks that are asked and their rows."""
    return [(task, count) for task, count in test.tasks.items() if config.tasks is None or task in config.tasks]


def rows_of(run: Run, config: FinetuneConfig) -> float:
    """Rows that a finetune trains on: of its mixture, of its selection, or all; no more than its limit."""
    if config.mixture is not None:
        return float(
            sum(
                sum(part.rows.values()) if part.rows else run.noun("samples", part.samples).require("ingest").rows_out
                for part in config.mixture
            )
        )
    rows = run.noun("samples", config.samples).require("ingest").rows_out
    if config.selection is not None:
        rows = int(run.noun("selection", config.selection).require("select").metrics["kept"])
    return float(min(rows, config.limit or rows))
