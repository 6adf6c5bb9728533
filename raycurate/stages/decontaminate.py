"""``decontaminate``: mark the rows that tell of a test set, by their pictures or their words (`cleaning/overlap.py`).

    samples, test rows --> prints of both --each shard against all test rows--> marks/decontaminate

The test rows are samples like others: a label of this run (`ingest test.json --out RUN --label test`), or a source,
which is then ingested under a label of its own with the settings of `ingest`. Row-wise: it resumes by shard. Cost and
memory are those of the prints and of `cleaning/overlap.py`.
"""

from __future__ import annotations

import functools

import pyarrow as pa

from raycurate.cleaning.config import DecontaminateConfig
from raycurate.cleaning.overlap import TestPrints
from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import absolute, exists, resolve
from raycurate.run.manifest import Manifest, ShardRecord, fingerprint_of
from raycurate.run.names import plain_label
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.cleaning import marks
from raycurate.stages.cleaning.prints import make_prints
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.shards import describe, run_missing_shards, skip_if_done
from raycurate.stages.ingest import ingest

ROWS_HERE = 20_000
"""Rows that one process compares in the seconds that a cluster takes to start."""


def _is_small(run: Run, config: DecontaminateConfig) -> bool:
    samples = run.noun("samples", config.samples).manifest()
    return samples is not None and samples.rows_out <= ROWS_HERE


@in_session_unless(_is_small)
def decontaminate(run: Run, config: DecontaminateConfig) -> Manifest:
    """Write the noun ``marks/decontaminate``: per sample what of the test set it tells, if anything.

    Raises:
        UserError: samples or test rows that are not there or stale, or that are the same.
    """
    samples = run.noun("samples", config.samples)
    manifest = required(samples)
    test = _test_samples(run, config, manifest)
    if test.label == config.samples:
        raise UserError(f"the rows of samples/{test.label} are compared with themselves: name test rows in `against`")
    prints, held = make_prints(run, config, config.samples), make_prints(run, config, test.label)
    read = [manifest, required(test), required(prints), required(held)]
    inputs = {f"{each.noun}/{each.label}": each.fingerprint for each in read}
    description = describe("decontaminate", config, inputs, read)
    noun = run.noun(marks.NOUN, config.label)
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace)
    run_missing_shards(
        "decontaminate",
        noun,
        functools.partial(_shard, noun, samples, prints, held, config),
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        max_tasks=config.max_tasks,
    )
    return marks.finish_marks(noun, {"test_rows": read[1].rows_out})


def _test_samples(run: Run, config: DecontaminateConfig, samples: Manifest) -> Noun:
    """The test rows: samples that are there, or ingested now."""
    try:
        known = run.noun("samples", plain_label(config.against))
    except UserError:
        known = None
    if known is not None and known.manifest() is not None:
        required(known)
        return known
    if known is not None and not exists(*resolve(absolute(config.against))):
        labels = ", ".join(noun.label for noun in run.nouns() if noun.noun == "samples")
        raise UserError(
            f"against '{config.against}' is neither samples of this run ({labels}) nor a file that is there. "
            f"`raycurate ingest TEST --out {run.uri} --label test` makes the first; check the path of the second"
        )
    images = config.against_images or samples.description["config"].get("images")
    values = {"source": config.against, "images": images, "strict": config.strict, "max_tasks": config.max_tasks}
    source = make_config(IngestConfig, {**values, "max_rejected": config.max_rejected}).source
    label = f"against-{fingerprint_of({'source': source, 'images': images})[:8]}"
    ingest(run, make_config(IngestConfig, {**values, "max_rejected": config.max_rejected, "label": label}))
    return run.noun("samples", label)


def _shard(noun: Noun, samples: Noun, prints: Noun, held: Noun, config: DecontaminateConfig, shard: int) -> ShardRecord:
    """Task: one shard against all test rows."""
    test = pa.concat_tables(held.iter_parts()).sort_by("key")
    known = TestPrints(test, distance=config.distance, overlap=config.overlap, common=config.common)
    rows = prints.read_part(shard)
    found = known.find(rows)
    at = pa.array(found.test_N, mask=found.test_N < 0)
    marked = pa.table(
        {
            "key": rows["key"],
            "reason": pa.array(found.reason_N, pa.string()),
            "similarity": pa.array(found.similarity_N, mask=found.test_N < 0),
            "like": test["key"].take(at),
            "like_source_id": test["source_id"].take(at),
            "group": pa.nulls(rows.num_rows, pa.string()),
        }
    )
    keys = samples.read_part(shard, ["key", "source_id"])
    return marks.commit_marks(noun, shard, marks.of_keys(keys, marked))
