"""``score``: forward passes that many selection methods share, each run once for all that is asked of it.

    samples --loaders--> batches --actors--> fragments --merge--> row_scores/token_losses   loss, loss_blind, el2n, aum
       |                 (one model)                              features/{last,mean,weighted}_token, visual, attended
       +----loaders--> batches --CLIP actors--> fragments ------> row_scores/clip, features/clip
       +--5 %--> the same with and without their questions -----> row_scores/reference, its weights.json   (PreSel)

One pass of the model makes all of its scores that were asked for and are not there; each score is a noun of its own,
with its own fingerprint, so asking later for another one runs the pass for that one only, and a finished score is never
made again. What a noun holds does not depend on what was made beside it. Embeddings are `features` like those of
``extract``: ``cluster --features last_token`` reads them.

A row that cannot be tokenised, or whose numbers are not finite, goes to the quarantine of each noun that would have
held it, with the reason. Rows of text alone have no `loss_blind` and no `clip_score`: null; in `visual` and `attended`,
which are of the image, they are zero. `gradients` makes `row_scores/gradients`, their norms, and `features/gradients`,
their sketches (`features/gradient_sketches.py`).

Cost: a full forward pass per row (for `visual` and `attended` alone the vision tower and one layer), with `blind` a
second one without the image's tokens for rows that have an image; two for the rows of the reference; one CLIP pass.
Memory: a loader holds one window, an actor one batch, the driver counts. `given` reads numbers that somebody else made,
by key, and runs nothing.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from raycurate.config import ScoreConfig
from raycurate.errors import UserError
from raycurate.estimate.formulas import score_work
from raycurate.estimate.rates import Rates, rates_here
from raycurate.estimate.work import Work
from raycurate.models.source import image_backend
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import delete_folder
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.selection.reference import IrsSums, reference_plan, task_weights
from raycurate.stages.engine.actor_pool import actor_lines, commit_shards, gpus_of
from raycurate.stages.engine.foreseen import ModelSize, foresee
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import begin, keep_unless, required
from raycurate.stages.engine.model_facts import ModelFacts, clip_model_facts, scoring_facts
from raycurate.stages.engine.names import CLIP_EXAMPLE, ROW_SCORES, score_label
from raycurate.stages.engine.pool_here import is_small, rows_left, session_unless_small
from raycurate.stages.engine.rejects import check_rejects
from raycurate.stages.engine.shards import (
    map_tasks,
    names_of,
    stage_progress,
)
from raycurate.stages.score_given import take_given
from raycurate.stages.table import version_of
from raycurate.stages.workers.reference import load_reference, merge_reference
from raycurate.stages.workers.score import (
    CLIP_EMBEDDING,
    CLIP_SCORE,
    GRADIENT_NORMS,
    GRADIENT_SKETCHES,
    TOKEN_LOSSES,
    ClipActor,
    ScoringActor,
    dimension_of,
    load_clip,
    load_rows,
    merge_clip,
    merge_scores,
)
from raycurate.stages.workers.windows import loader_memory

ROW_SETTINGS = ("max_length", "batch_tokens", "batch_rows", "window_rows")
GRADIENT_SETTINGS = ("gradient_layers", "gradient_width")
CLIP_SETTINGS = ("clip_rows", "window_rows")
REFERENCE_SETTINGS = (*ROW_SETTINGS, "reference_part", "reference_seed")
REFERENCE = "reference"
log = logging.getLogger("raycurate")


@dataclass(frozen=True, slots=True)
class Output:
    """One noun that a pass makes, and what determines it."""

    name: str
    noun: Noun
    description: Mapping[str, Any]


def _is_small(run: Run, config: ScoreConfig) -> bool:
    """Whether one process makes what is asked for as fast as a cluster starts: of the scores of one pass."""
    samples = run.noun("samples", config.samples)
    if config.given is not None or config.also or {"clip", REFERENCE} & set(config.scores):
        return False
    made = [run.noun(*_place(config, name)) for name in _outputs_asked(config)]
    return is_small(samples, made, config)


@in_session_unless(_is_small)
def score(run: Run, config: ScoreConfig) -> list[Manifest]:
    """Make the scores that are asked for and not there; their manifests, in the order asked.

    Raises:
        UserError: a model that cannot be used, `clip` without a CLIP model, a file of given numbers that has none.
    """
    if config.given is not None and config.also:
        raise UserError(f"also={list(config.also)} is for the scores of a model, and --given reads numbers of one file")
    manifests = _score_samples(run, config)
    for label in config.also:
        manifests += _score_samples(run, config.model_copy(update={"samples": label, "label": label}))
    return manifests


def _score_samples(run: Run, config: ScoreConfig) -> list[Manifest]:
    """The scores of the samples of one label."""
    samples = run.noun("samples", config.samples)
    sample_manifest = required(samples)
    if config.given is not None:
        return [take_given(run, config, samples, sample_manifest)]
    if "clip" in config.scores and config.clip is None:
        raise UserError(
            f"the score 'clip' needs a CLIP or SigLIP model: give --clip {CLIP_EXAMPLE}, or --clip and a local folder."
        )
    gpus = gpus_of(config)
    images = config.images or sample_manifest.description["config"].get("images")
    check_images(samples, sample_manifest, images)
    manifests: list[Manifest] = []
    if set(config.scores) - {"clip"}:
        facts = next(map_tasks(scoring_facts, [(config, gpus > 0, samples)], num_cpus=0.5))
        manifests += _score_rows(run, config, samples, sample_manifest, facts, images)
        if REFERENCE in config.scores:
            manifests += _score_reference(run, config, samples, sample_manifest, facts, images)
    if "clip" in config.scores:
        manifests += _score_clip(run, config, samples, sample_manifest, images)
    return manifests


def _score_rows(
    run: Run, config: ScoreConfig, samples: Noun, manifest: Manifest, facts: ModelFacts, images: str | None
) -> list[Manifest]:
    """All that one pass of the model makes of the rows as they are."""
    names = _outputs_asked(config)
    if not names:
        return []

    def start(wanted: Sequence[Output], missing: list[int]) -> tuple[Any, Callable[..., ShardRecord]]:
        nouns = {output.name: output.noun for output in wanted}
        load = functools.partial(load_rows, samples, config, facts, images, TOKEN_LOSSES in nouns)
        settings = {"nouns": nouns, "config": config, "facts": facts}
        lines = _batches(missing, load, ScoringActor, settings, config, facts)
        return lines, functools.partial(merge_scores, samples, nouns, config, facts)

    outputs = [_output(run, config, manifest, facts, name) for name in names]
    return _run_pass(config, samples, facts, outputs, start)


def _outputs_asked(config: ScoreConfig) -> list[str]:
    """What one pass of the model over all rows is to make."""
    asked = (
        (name, GRADIENT_SKETCHES) if name == GRADIENT_NORMS else (name,)
        for name in dict.fromkeys(config.scores)
        if name not in ("clip", REFERENCE)
    )
    return list(itertools.chain.from_iterable(asked))


def _score_clip(run: Run, config: ScoreConfig, samples: Noun, manifest: Manifest, images: str | None) -> list[Manifest]:
    """What one pass of CLIP makes."""
    gpus = gpus_of(config)
    facts, limits = next(map_tasks(clip_model_facts, [(config, gpus > 0)], num_cpus=0.5))

    def start(wanted: Sequence[Output], missing: list[int]) -> tuple[Any, Callable[..., ShardRecord]]:
        nouns = {output.name: output.noun for output in wanted}
        load = functools.partial(load_clip, samples, config, facts, limits, images)
        settings = {"nouns": nouns, "config": config, "facts": facts}
        lines = _batches(missing, load, ClipActor, settings, config, facts)
        return lines, functools.partial(merge_clip, samples, nouns, config, facts)

    outputs = [_output(run, config, manifest, facts, name) for name in (CLIP_SCORE, CLIP_EMBEDDING)]
    return _run_pass(config, samples, facts, outputs, start)


def _score_reference(
    run: Run, config: ScoreConfig, samples: Noun, manifest: Manifest, facts: ModelFacts, images: str | None
) -> list[Manifest]:
    """PreSel's reference rows, and the weights of tasks that follow."""
    output = _output(run, config, manifest, facts, REFERENCE)

    def start(_: Sequence[Output], missing: list[int]) -> tuple[Any, Callable[..., ShardRecord]]:
        def each_block(function: Callable[[pa.Table], Any]) -> Iterator[Any]:
            shards = ((shard,) for shard in range(manifest.shards))
            return map_tasks(lambda shard: function(samples.read_part(shard, ["key", "task"])), shards, num_cpus=0.5)

        drawn = reference_plan(manifest.metrics["tasks"], config.reference_part, config.reference_seed, each_block)
        load = functools.partial(load_reference, samples, config, facts, images, drawn)
        both = config.model_copy(update={"blind": True})
        settings = {"nouns": {TOKEN_LOSSES: output.noun}, "config": both, "facts": facts}
        lines = _batches(missing, load, ScoringActor, settings, config, facts)
        return lines, functools.partial(merge_reference, samples, output.noun, drawn, config.max_rejected)

    return _run_pass(config, samples, facts, [output], start)


def _batches(
    missing: list[int],
    load: Callable[..., Iterator[pa.Table]],
    actor: type[Any],
    settings: Mapping[str, Any],
    config: ScoreConfig,
    facts: ModelFacts,
) -> Any:
    """The batches of the missing shards after the actors."""
    gpus = gpus_of(config)
    memory = loader_memory(config.window_rows, facts.image_bytes, config.window_mb)
    return actor_lines(missing, load, actor, {**settings, "on_gpu": gpus > 0}, config, gpus, memory)


def _write_weights(noun: Noun) -> None:
    """Weights of tasks by their mean IRS, as a selection's ``--task-weights`` reads them; none where none is known."""
    records = noun.records().values()
    sums = IrsSums.added(
        IrsSums(Counter(record.extra["irs_units"]), Counter(record.extra["irs_rows"])) for record in records
    )
    if sums.rows:
        weights = {task: max(weight, 1e-12) for task, weight in task_weights(sums, sums.rows).items()}
        noun.write_json("weights.json", {"weights": weights, "irs": sums.difficulties(), "rows": dict(sums.rows)})


def _output(run: Run, config: ScoreConfig, samples: Manifest, facts: ModelFacts, name: str) -> Output:
    """The noun of one output; its description has the settings that its numbers follow from, and no others."""
    of_clip = name in (CLIP_SCORE, CLIP_EMBEDDING)
    settings: Sequence[str] = CLIP_SETTINGS if of_clip else REFERENCE_SETTINGS if name == REFERENCE else ROW_SETTINGS
    values = config.determining()
    description: dict[str, Any] = {
        "stage": "score",
        "stage_version": version_of("score"),
        "output": name,
        "config": {setting: values[setting] for setting in settings},
        "inputs": {
            "samples": samples.fingerprint,
            "model": facts.fingerprint,
            "dtype": facts.dtype,
            "image_backend": image_backend(),
        },
        "made_from": names_of([samples]),
    }
    description["config"]["model"] = config.clip if of_clip else config.model
    if name == TOKEN_LOSSES:
        description["config"]["blind"] = config.blind
    if name in (GRADIENT_NORMS, GRADIENT_SKETCHES):
        description["config"] |= {setting: values[setting] for setting in GRADIENT_SETTINGS}
    return Output(name, run.noun(*_place(config, name)), description)


def _place(config: ScoreConfig, name: str) -> tuple[str, str]:
    """The kind and the label of the noun of one output."""
    kind = ROW_SCORES if name in (TOKEN_LOSSES, GRADIENT_NORMS, CLIP_SCORE, REFERENCE) else "features"
    group = {CLIP_EMBEDDING: "clip", GRADIENT_SKETCHES: GRADIENT_NORMS}.get(name, name)
    return kind, score_label(config.label, group)


def _run_pass(
    config: ScoreConfig,
    samples: Noun,
    facts: ModelFacts,
    outputs: Sequence[Output],
    start: Callable[[Sequence[Output], list[int]], tuple[Any, Callable[..., ShardRecord]]],
) -> list[Manifest]:
    """Make those outputs of one model that are not done; the manifests of all."""
    wanted = [output for output in outputs if not output.noun.is_done(output.description)]
    sample_manifest = required(samples)
    for output in wanted:
        keep_unless(output.noun, output.description, replace=config.replace)
    for output in wanted:
        begin(output.noun, output.description, replace=config.replace, by_shard=output.name != REFERENCE)
    if wanted:
        first = wanted[0].noun
        missing = sorted({shard for output in wanted for shard in output.noun.missing(sample_manifest.shards)})
        rates: dict[str, Any] = {}
        size = None if any(output.name == REFERENCE for output in wanted) else facts.size

        def left() -> Work | None:
            rows = max(rows_left(samples, output.noun) for output in wanted)
            return None if size is None else _work(config, size, rates_here(), rows)

        with session_unless_small(left), stage_progress("score", first, sample_manifest.rows_out) as progress:
            if size is not None:
                for output in wanted:
                    foresee(output.noun, functools.partial(_work, config, size), gpus_of(config))
            if missing:
                lines, merge = start(wanted, missing)
                rates = commit_shards(lines, merge, progress, strict=config.strict)
        for output in wanted:
            check_rejects("score", output.noun, config.max_rejected, samples=samples)
        delete_folder(first.filesystem, f"{first.folder}/fragments")
        _finish(wanted, facts, rates, config)
    manifests = [output.noun.manifest() for output in outputs]
    return [manifest for manifest in manifests if manifest is not None]


def _work(config: ScoreConfig, size: ModelSize, rates: Rates, rows: int | None = None) -> Work:
    """Of a pass over all rows, or over so many of them."""
    source = size.source if rows is None else replace(size.source, rows=rows)
    return score_work(source, size.tokens, size.geometry, rates, config)


def _finish(made: Sequence[Output], facts: ModelFacts, rates: Mapping[str, Any], config: ScoreConfig) -> None:
    """Publish what one pass made; every noun says what the whole pass took, and which pass that was."""
    work = made[0].noun.read_json("work.json")
    assert work is not None, "a noun that was begun"
    for output in made:
        own = output.noun.read_json("work.json")
        assert own is not None, "a noun that was begun"
        output.noun.add_seconds(work["seconds"] - own["seconds"])
        metrics: dict[str, Any] = {
            "model": config.clip if output.name in (CLIP_SCORE, CLIP_EMBEDDING) else config.model,
            "dtype": facts.dtype,
            **rates,
            "shared_pass": work["fingerprint"],
        }
        if output.noun.noun == "features":
            dimension = dimension_of(output.name, config, facts)
            block = dimension if output.name == GRADIENT_SKETCHES else facts.block_dim
            metrics |= {"dimension": dimension, "blocks": dimension // block, "block_dim": block}
        if output.name == REFERENCE:
            _write_weights(output.noun)
        output.noun.finish(metrics=metrics)
