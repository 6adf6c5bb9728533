"""``extract``: forward passes of the reference model over Ray Data, one unit feature row per sample.

    shards --loader tasks (CPU: read, decode, tokenise, pack)--> batches --actor pool--> fragments --commit--> parts

A shard is read in windows of ``window_rows``; a window's batches depend on its rows only, so the features do not depend
on the number of actors, on Ray's blocks or on arrival order. Batches travel as safetensors bytes through the object
store; an actor writes the few unit rows of a batch as a fragment file and hands on a line of counts. When a shard has
all its fragments the driver starts the task that merges them into the shard's part, with its rejects and its record.
The driver holds counts only. Few rows, as after an append, are made in this process (`engine/pool_here.py`). Features
that are finished are found by the hash of the model's folder, without a worker that loads transformers (4 s); they keep
the precision that they were made in, whichever `dtype=auto` would be here.

Cost: the model's truncated forward pass per row; 2 * D bytes per row written twice and read once. Memory: a loader
holds one window, an actor one batch. Ray Data's own checkpoint is not used: the shard records are the resume.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycurate.config import ExtractConfig
from raycurate.estimate.formulas import extract_work
from raycurate.estimate.rates import Rates, rates_here
from raycurate.estimate.work import Work
from raycurate.models.source import image_backend, model_fingerprint, resolve_model
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import delete_folder
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.actor_pool import actor_lines, commit_shards, gpus_of
from raycurate.stages.engine.foreseen import ModelSize, foresee
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import begin, keep_unless, required
from raycurate.stages.engine.model_facts import ModelFacts, model_facts
from raycurate.stages.engine.pool_here import is_small, rows_left, session_unless_small
from raycurate.stages.engine.rejects import check_rejects
from raycurate.stages.engine.shards import describe, map_tasks, skip_if_done, stage_progress
from raycurate.stages.workers.extract import ExtractionActor, load_shards, merge_shard
from raycurate.stages.workers.windows import loader_memory


def _is_small(run: Run, config: ExtractConfig) -> bool:
    return is_small(run.noun("samples", config.samples), [run.noun("features", config.label)], config)


@in_session_unless(_is_small)
def extract(run: Run, config: ExtractConfig) -> Manifest:
    """Write the ``features`` noun: key and unit float16 row per sample, one part per samples shard."""
    samples = run.noun("samples", config.samples)
    sample_manifest = required(samples)
    noun = run.noun("features", config.label)
    keep_unless(noun, {"config": config.determining()}, replace=config.replace)
    images = config.images or sample_manifest.description["config"].get("images")
    check_images(samples, sample_manifest, images)
    if done := _finished(noun, config, sample_manifest):
        return done
    gpus = gpus_of(config)
    facts: ModelFacts = next(map_tasks(model_facts, [(config, gpus > 0, samples)], num_cpus=0.5))
    description = describe(
        "extract",
        config,
        {
            "samples": sample_manifest.fingerprint,
            "model": facts.fingerprint,
            "layers": facts.layers,
            "dtype": facts.dtype,
            "image_backend": image_backend(),
        },
        [sample_manifest],
    )
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace, by_shard=True)
    size = facts.size
    missing = noun.missing(sample_manifest.shards)

    def left() -> Work | None:
        return None if size is None else _work(config, facts, size, rates_here(), rows_left(samples, noun))

    rates: dict[str, Any] = {}
    with session_unless_small(left), stage_progress("extract", noun, sample_manifest.rows_out) as progress:
        if size is not None:
            foresee(noun, functools.partial(_work, config, facts, size), gpus)
        if missing:
            load = functools.partial(load_shards, samples, config, facts, images)
            actor = {"noun": noun, "config": config, "facts": facts, "on_gpu": gpus > 0}
            memory = loader_memory(config.window_rows, facts.image_bytes, config.window_mb)
            lines = actor_lines(missing, load, ExtractionActor, actor, config, gpus, memory)
            merge = functools.partial(merge_shard, samples, noun, config.max_rejected)
            rates = commit_shards(lines, merge, progress, strict=config.strict)
    check_rejects("extract", noun, config.max_rejected, samples=samples)
    delete_folder(noun.filesystem, f"{noun.folder}/fragments")
    return noun.finish(
        metrics={
            "dimension": facts.dimension,
            "blocks": facts.dimension // facts.block_dim,
            "block_dim": facts.block_dim,
            "layers": list(facts.layers),
            "dtype": facts.dtype,
            "model": config.model,
            "variant": config.variant,
            **rates,
        }
    )


def _work(config: ExtractConfig, facts: ModelFacts, size: ModelSize, rates: Rates, rows: int | None = None) -> Work:
    """Of all rows, or of so many of them."""
    return extract_work(
        size.source if rows is None else replace(size.source, rows=rows),
        size.tokens,
        size.geometry,
        rates,
        layers=facts.layers,
        variant=config.variant,
        batch_tokens=config.batch_tokens,
        most_cards=config.max_actors,
    )


def _finished(noun: Noun, config: ExtractConfig, samples: Manifest) -> Manifest | None:
    """The features that are there, if they are of these samples, this config and this model, and that is a folder."""
    manifest = noun.manifest()
    source = resolve_model(config.model)
    if manifest is None or not Path(source).is_dir():
        return None
    now = {
        "samples": samples.fingerprint,
        "model": model_fingerprint(source, None),
        "image_backend": image_backend(),
    }
    inputs = manifest.description["inputs"] | now
    return skip_if_done(noun, describe("extract", config, inputs, [samples]))
