"""The work of finetunes, evaluations and of experiments that train many times.

A finetune reads and tokenises its rows, then trains: FLOP of `Geometry.training_flop`, the frozen tower once a row, and
an optimizer step that moves 16 bytes of every trained number. An evaluation answers with a cache: the prompt once, then
a step for every token of the longest answer in a batch, each of which reads all weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycurate.estimate.formulas import ELEMENT_BYTES, PADDING, TABLE_ROW_BYTES, loading_work, pass_work
from raycurate.estimate.geometry import Geometry
from raycurate.estimate.rates import Rates
from raycurate.estimate.source import Source
from raycurate.estimate.tokens import Tokens
from raycurate.estimate.work import Work

OPTIMIZER_BYTES = 16.0
"""Of a trained number: its gradient, two moments and a 32-bit copy."""
LONGEST_ANSWER = 4.0
"""Tokens of the longest answer of a batch to the mean answer."""
SHORTEST = 8.0
"""Tokens that the longest answer of a batch has, however short its questions' answers are."""
CACHE_MOVES = 3.0
"""Times that a step moves the cache: it is read, and written anew with one token more."""
TRAINING_STARTS = 2.0
"""A training's workers are started, then their group is formed."""


@dataclass(frozen=True, slots=True)
class Training:
    """One of the trainings of an experiment.

    Attributes:
        count: of such trainings.
        rows: that one trains on, in one epoch.
        tested: rows that one is scored on; 0: none.
    """

    count: int
    rows: float
    tested: float = 0.0


def finetune_work(
    rows: float, source: Source, tokens: Tokens, geometry: Geometry, rates: Rates, config: Any, *, on_card: bool
) -> Work:
    """A finetune on `rows` of the source with a `FinetuneConfig`, its tokens and the start of its workers included."""
    steps = trainer_work(rows, source, tokens, geometry, rates, config, on_card=on_card)
    return loading_work(rows, source, tokens, rates).plus(steps).plus(Work(rows=0, starts=TRAINING_STARTS))


def trainer_work(
    rows: float, source: Source, tokens: Tokens, geometry: Geometry, rates: Rates, config: Any, *, on_card: bool
) -> Work:
    """The steps of a finetune alone."""
    steps = math.ceil(rows * config.epochs / config.batch_rows)
    seen = rows * config.epochs
    if config.max_steps is not None:
        steps = config.max_steps
        seen = float(steps * config.batch_rows)
    recomputed = on_card if config.gradient_checkpointing is None else config.gradient_checkpointing
    flop = geometry.training_flop(
        tokens.row, tokens.square, tokens.answers, method=config.method, recomputed=recomputed
    )
    vision = geometry.vision_flop(tokens.patches, tokens.visual, tokens.tiles)
    if config.train_vision:
        vision *= 3
    trained = geometry.trained(config.method, config.lora_rank)
    number = ELEMENT_BYTES if on_card else 4
    # Cores take 32-bit numbers about as fast as 16-bit ones: rates of moved bytes are those of 16 bits.
    traffic = PADDING * 3 * geometry.row_traffic(tokens.row, geometry.layers, ELEMENT_BYTES)
    traffic += source.images * geometry.vision_traffic(tokens.patches, ELEMENT_BYTES)
    again = loading_work(seen, source, tokens, rates)
    return Work(
        rows=0,
        core_seconds=again.core_seconds - seen * rates.prepare_row_seconds,
        training_flop=seen * (PADDING * flop + source.images * vision),
        network_bytes=seen * traffic + steps * OPTIMIZER_BYTES * trained,
        serial_seconds=steps * 3 * geometry.layers * rates.call_seconds * config.accumulation,
        read_bytes=again.read_bytes + ELEMENT_BYTES * geometry.parameters,
        write_bytes=TABLE_ROW_BYTES * rows + ELEMENT_BYTES * trained * (1 + steps // config.save_steps),
        requests=again.requests,
        disk_bytes=ELEMENT_BYTES * (geometry.parameters if config.method == "full" else trained),
        memory_bytes=training_memory(tokens, geometry, config, trained, recomputed, number),
        use="finetune",
        most_cards=config.workers,
    )


def training_memory(
    tokens: Tokens, geometry: Geometry, config: Any, trained: float, recomputed: bool, number: int
) -> float:
    """Bytes on one worker: weights, what is trained, activations; split over workers where DeepSpeed splits them."""
    weights, states = float(number * geometry.parameters), OPTIMIZER_BYTES * trained
    if config.deepspeed is not None:
        states /= config.workers
        weights /= config.workers if config.deepspeed == "zero3" else 1
    per_layer = geometry.width if recomputed else 34.0 * geometry.width
    return weights + states + config.rows_per_forward * tokens.row * per_layer * geometry.layers * number


def evaluate_work(
    rows: float,
    source: Source,
    tokens: Tokens,
    geometry: Geometry,
    rates: Rates,
    config: Any,
    *,
    on_card: bool,
) -> Work:
    """Answers to the questions of `rows` with an `EvaluateConfig`, one to every answer that the source has."""
    batch_tokens = config.batch_tokens
    questions = rows * max(source.answers, 1.0)
    mean = tokens.answers / max(source.answers, 1.0)
    longest = min(float(config.max_new_tokens), max(SHORTEST, LONGEST_ANSWER * mean))
    prompt = pass_work(questions, source, tokens, geometry, batch_tokens=batch_tokens, most_cards=config.max_actors)
    in_batch = max(1.0, min(batch_tokens / max(tokens.row, 1.0), config.batch_rows))
    steps = math.ceil(questions / in_batch) * longest
    cache = in_batch * tokens.row * geometry.kv_width * geometry.layers * ELEMENT_BYTES
    moved = steps * (ELEMENT_BYTES * geometry.decoder_parameters + CACHE_MOVES * cache)
    moved += steps * geometry.row_traffic(in_batch, geometry.layers, ELEMENT_BYTES)
    decoding = Work(
        rows=0,
        network_flop=steps * in_batch * (geometry.decoder_flop(1.0, tokens.row) + geometry.head_flop(1.0)),
        network_bytes=moved,
        core_seconds=0.0 if on_card else steps * geometry.layers * rates.call_seconds,
        write_bytes=2 * TABLE_ROW_BYTES * rows,
        disk_bytes=2 * TABLE_ROW_BYTES * rows,
        memory_bytes=in_batch * (tokens.row + longest) * geometry.kv_width * geometry.layers * ELEMENT_BYTES,
    )
    return loading_work(rows, source, tokens, rates).plus(prompt).plus(decoding)


def trainings_of(name: str, config: Any, rows: int, tasks: int, tested: Mapping[str, int]) -> list[Training] | None:
    """The trainings of an experiment; None for one that trains by what earlier trainings come to.

    Args:
        name: of the stage.
        config: its settings.
        rows: of the samples.
        tasks: among them.
        tested: rows of each other set of samples, by its label.
    """
    if name == "compare":
        on = min(tested.get(config.data, 0), config.max_test_rows or 1 << 62)
        return [_line(method, config.ratio, len(config.seeds), rows, on) for method in config.methods]
    if name == "sweep":
        return [] if config.finetune is None else _swept(config, rows, tested.get(config.data, 0))
    if name == "choose":
        count = len(config.contestants) * len(config.seeds)
        return [Training(count, config.proxy_rows(rows), tested.get(config.data, 0))]
    if name == "balance":
        return _balanced(config, rows, tasks, tested.get(config.validation, 0))
    if name == "individual-select":
        on = tested.get(config.data, 0)
        tried = len(config.candidates) * config.candidate_seeds
        categories = len({config.categories.get(each, each) for each in config.candidates})
        return [Training(len(config.seeds), rows, on), Training(tried + categories, rows + (config.cap or 0), on)]
    if name == "compare-weights":
        on, all_rows = tested.get(config.data, 0), config.part * rows
        lines = Training(len(config.weightings) * len(config.seeds), all_rows, on)
        return [lines, Training(tasks * len(config.seeds), all_rows / tasks, on / tasks)]
    if name == "scaling":
        on = tested.get(config.data, 0)
        return [Training(len(config.seeds), min(size, rows), on) for size in config.sizes]
    return None


def _line(method: str, ratio: float, seeds: int, rows: int, tested: float) -> Training:
    return Training(seeds, rows if method == "full" else ratio * rows, tested)


def _swept(config: Any, rows: int, tested: float) -> list[Training]:
    found = []
    for method in config.methods:
        if method == "full":
            found.append(Training(config.full_seeds or len(config.seeds), rows, tested))
            continue
        grid = max(1, len(config.temperatures) if method == "coincide" else 1) * len(config.seeds)
        found += [Training(grid, ratio * rows, tested) for ratio in config.ratios]
    return found


def _balanced(config: Any, rows: int, tasks: int, tested: float) -> list[Training]:
    units = max(1, (len(config.groups) if config.groups else tasks) - len(config.fixed))
    large, mini = config.large * rows / units, config.mini * rows / units
    alone = [Training(units, large, tested), Training(units, mini, tested)]
    if config.form == "chat":
        return alone
    mixed = [Training(1, mini * units, tested), Training(units, large + mini * (units - 1), tested)]
    return [*mixed, *alone] if config.difficulty == "precise" else mixed
