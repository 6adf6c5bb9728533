"""``extract``: forward passes of the reference model over Ray Data, one unit feature row per sample.

    shards --loader tasks (CPU: read, decode, tokenise, pack)--> batches --actor pool--> fragments --commit--> parts

A shard is read in windows of ``window_rows``; a window's batches depend on its rows only, so the features do not depend
on the number of actors, on Ray's blocks or on arrival order. Batches travel as safetensors bytes through the object
store; an actor writes the few unit rows of a batch as a fragment file and hands on a line of counts. When a shard has
all its fragments the driver starts the task that merges them into the shard's part, with its rejects and its record.
The driver holds counts only.

Cost: the model's truncated forward pass per row; 2 * D bytes per row written twice and read once. Memory: a loader
holds one window, an actor one batch. Ray Data's own checkpoint is not used: the shard records are the resume.
"""

from __future__ import annotations

import functools
from typing import Any

import ray
import ray.data

from raycurate.config import ExtractConfig
from raycurate.errors import UserError
from raycurate.filesystem import delete_folder
from raycurate.progress import Progress
from raycurate.ray_session import cluster_cpus, cluster_gpus, in_session
from raycurate.stages.extract_workers import ExtractionActor, load_shards, merge_shard
from raycurate.stages.model_facts import ModelFacts, model_facts
from raycurate.stages.shards import count_record, describe, get_result, map_tasks, skip_if_done, stage_progress
from raycurate.store import Manifest, Noun, Run

STAGE_VERSION = 1
BLOCK_BYTES = 8 << 20


@in_session
def extract(run: Run, config: ExtractConfig) -> Manifest:
    """Write the ``features`` noun: key and unit float16 row per sample, one part per samples shard."""
    samples = run.noun("samples", config.samples)
    sample_manifest = samples.require("ingest")
    gpus = config.gpus_per_actor if config.gpus_per_actor is not None else float(cluster_gpus() > 0)
    facts: ModelFacts = next(map_tasks(model_facts, [(config, gpus > 0)], num_cpus=0.5))
    description = describe(
        "extract",
        STAGE_VERSION,
        config,
        {
            "samples": sample_manifest.fingerprint,
            "model": facts.fingerprint,
            "layers": facts.layers,
            "dtype": facts.dtype,
        },
    )
    noun = run.noun("features", config.label)
    if done := skip_if_done(noun, description):
        return done
    noun.begin(description)
    images = config.images or sample_manifest.description["config"]["images"]
    missing = noun.missing(sample_manifest.shards)
    rate: float | None = None
    with stage_progress("extract", noun, sample_manifest.rows_out) as progress:
        if missing:
            dataset = _dataset(samples, noun, config, facts, images, missing, gpus)
            rate = _commit_shards(samples, noun, dataset, progress, config)
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
            "rows_per_second": rate,
        }
    )


def _dataset(
    samples: Noun,
    noun: Noun,
    config: ExtractConfig,
    facts: ModelFacts,
    images: str | None,
    missing: list[int],
    gpus: float,
) -> ray.data.Dataset:
    """The streaming pipeline from shard numbers to fragment counts."""
    slots = max(1, int(cluster_gpus() / gpus if gpus else 0.8 * cluster_cpus() / config.cpus_per_actor))
    most = max(1, min(config.max_actors, 2 * len(missing)))
    least = min(config.min_actors, most)
    pool = ray.data.ActorPoolStrategy(
        min_size=least,
        max_size=most,
        initial_size=max(least, min(most, slots)),
        max_tasks_in_flight_per_actor=4,
    )
    dataset = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
    context = dataset.context
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = int(config.stall_seconds)
    dataset = dataset.map_batches(
        functools.partial(load_shards, samples, config, facts, images),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_loader,
    )
    return dataset.map_batches(
        ExtractionActor,
        fn_constructor_kwargs={"noun": noun, "config": config, "facts": facts, "on_gpu": gpus > 0},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_actor,
        num_gpus=gpus or None,
        label_selector=config.nodes or None,
        compute=pool,
    )


class _Ledger:
    """Which batches of which shard are done; says when a shard is complete, and how fast rows came."""

    def __init__(self) -> None:
        self.batches: dict[int, dict[int, int]] = {}
        self.seen: dict[int, set[tuple[int, int]]] = {}
        self.first = self.last = 0.0
        self.rows_after_first = 0

    @property
    def rows_per_second(self) -> float | None:
        """Steady rate: from the first finished batch to the last, so that starting up is left out."""
        return self.rows_after_first / (self.last - self.first) if self.last > self.first else None

    def add(self, line: dict[str, Any]) -> dict[int, int] | None:
        """Note one batch; the batches per window once the shard is complete. A batch that came twice counts once."""
        self.rows_after_first += line["rows"] if self.first else 0
        self.first = self.first or line["finished"]
        self.last = max(self.last, line["finished"])
        shard = line["shard"]
        expected = self.batches.setdefault(shard, {})
        expected[line["window"]] = line["batches"]
        seen = self.seen.setdefault(shard, set())
        seen.add((line["window"], line["batch"]))
        if len(expected) < line["windows"] or len(seen) < sum(expected.values()):
            return None
        del self.batches[shard], self.seen[shard]
        return expected


def _commit_shards(
    samples: Noun, noun: Noun, dataset: ray.data.Dataset, progress: Progress, config: ExtractConfig
) -> float | None:
    """Drive the pipeline; start a merge task for each complete shard; count. Returns the steady rows per second."""
    ledger = _Ledger()
    merge = ray.remote(merge_shard).options(num_cpus=0.1)
    pending: list[ray.ObjectRef] = []
    rejected = 0

    def collect(block: bool) -> None:
        nonlocal rejected
        while pending:
            ready, _ = ray.wait(pending, num_returns=1, timeout=None if block else 0)
            if not ready:
                return
            pending.remove(ready[0])
            record = get_result(ready[0])
            rejected = count_record(progress, record, strict=config.strict, quarantined=rejected)

    try:
        for line in dataset.iter_rows():
            batches = ledger.add(line)
            if batches is not None:
                pending.append(merge.remote(samples, noun, line["shard"], batches))
            collect(block=False)
    except ray.exceptions.RayError as error:
        raise readable_error(error) from error
    collect(block=True)
    assert not ledger.batches, f"shards left incomplete: {sorted(ledger.batches)}"
    return ledger.rows_per_second


def readable_error(error: ray.exceptions.RayError) -> Exception:
    """The task's own exception where Ray carries one."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        if isinstance(inner, UserError):
            return UserError(str(inner))
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return error
