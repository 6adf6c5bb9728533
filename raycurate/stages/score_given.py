"""Numbers that somebody else made, as scores of the rows by their keys: ``row_scores/given``.

Cost: one pass over the samples, and the rows of the file that a shard asks for.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from raycurate.config import ScoreConfig
from raycurate.errors import UserError
from raycurate.run.filesystem import content_hash, exists, resolve
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.lineage import begin
from raycurate.stages.engine.names import ROW_SCORES, score_label
from raycurate.stages.engine.rejects import check_rejects
from raycurate.stages.engine.shards import describe, run_missing_shards, skip_if_done
from raycurate.stages.workers.fragments import SOURCE_COLUMNS, rejects_of
from raycurate.stages.workers.score import NON_FINITE

GIVEN = "difficulty"
log = logging.getLogger("raycurate")


def take_given(run: Run, config: ScoreConfig, samples: Noun, sample_manifest: Manifest) -> Manifest:
    """Numbers of the user's own as a noun; rows without one are quarantined."""
    assert config.given is not None, "the caller looked"
    filesystem, path = resolve(config.given)
    num_given = check_given(config.given)
    inputs = {"samples": sample_manifest.fingerprint, "given": content_hash(filesystem, path)}
    description = describe("score", config, inputs, [sample_manifest])
    description["config"] = {"given": config.given}
    noun = run.noun(ROW_SCORES, score_label(config.label, "given"))
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace, by_shard=True)
    run_missing_shards(
        "score",
        noun,
        functools.partial(_given_shard, samples, noun, config.given),
        num_shards=sample_manifest.shards,
        total_rows=sample_manifest.rows_out,
        strict=config.strict,
        num_cpus=0.5,
        max_tasks=config.max_tasks,
    )
    check_rejects("score", noun, config.max_rejected, samples=samples)
    records = noun.records().values()
    used = sum(record.extra.get("given", 0) for record in records)
    if not any(record.rows_out for record in records):
        reasons = Counter[str]()
        for record in records:
            reasons.update(record.quarantined)
        raise UserError(
            f"{config.given} has no finite {GIVEN} for any of the {sample_manifest.rows_out:,} samples: {dict(reasons)}"
            f". Keys are those of the column key in {samples.folder}, for example '{_first_key(samples)}'"
        )
    unknown = num_given - used
    if unknown:
        log.warning(
            "score: %d of the %d keys of %s are of no sample; they are not used", unknown, num_given, config.given
        )
    return noun.finish(metrics={"given": num_given, "unknown_keys": unknown})


def check_given(uri: str) -> int:
    """Check a file of numbers that somebody else made; its rows.

    Raises:
        UserError: no such file, no Parquet, other columns, numbers that are text, or a key that is there twice.
    """
    wanted = f"give a Parquet file with the columns key (text) and {GIVEN} (a number)"
    filesystem, path = resolve(uri)
    if not exists(filesystem, path):
        raise UserError(f"there is no file {uri}; {wanted}")
    try:
        dataset = pads.dataset(path, filesystem=filesystem, format="parquet")
        types = {field.name: field.type for field in dataset.schema}
        keys = dataset.to_table(["key"])["key"] if "key" in types else None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{uri} cannot be read as Parquet ({str(error).splitlines()[0][:120]}); {wanted}") from None
    if keys is None or GIVEN not in types:
        raise UserError(f"{uri} has the columns {', '.join(types)}; {wanted}")
    if not (pa.types.is_string(types["key"]) or pa.types.is_large_string(types["key"])):
        raise UserError(f"the column key of {uri} is {types['key']}, not text; {wanted}")
    if not (pa.types.is_integer(types[GIVEN]) or pa.types.is_floating(types[GIVEN])):
        raise UserError(f"the column {GIVEN} of {uri} is {types[GIVEN]}, not a number; {wanted}")
    counts = keys.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        first = twice[0].as_py()
        raise UserError(
            f"{uri} has {len(twice):,} keys more than once, '{first['values']}' {first['counts']} times: which number "
            "counts is not said; keep one row of each"
        )
    return len(keys)


def _first_key(samples: Noun) -> str:
    return next((str(part["key"][0]) for part in samples.iter_parts(["key"]) if part.num_rows), "")


def _given_shard(samples: Noun, noun: Noun, given: str, shard: int) -> ShardRecord:
    source = samples.read_part(shard, SOURCE_COLUMNS)
    filesystem, path = resolve(given)
    keys = source["key"].combine_chunks()
    dataset = pads.dataset(path, filesystem=filesystem, format="parquet")
    found = dataset.to_table(["key", GIVEN], filter=pc.field("key").isin(keys))
    where = pc.index_in(keys, value_set=found["key"].combine_chunks())
    values = found[GIVEN].cast(pa.float64()).take(where).combine_chunks()
    good_N = pc.fill_null(pc.is_finite(values), False).to_numpy(zero_copy_only=False)
    bad = (~good_N).nonzero()[0]
    reasons = ["not_given" if value is None else NON_FINITE for value in values.take(pa.array(bad)).to_pylist()]
    rejects = rejects_of(source, bad, reasons, [f"{given} has no finite {GIVEN} for this key"] * len(bad))
    table = pa.table({"key": source["key"], GIVEN: values}).filter(pa.array(good_N))
    extra = {"given": found.num_rows}
    return noun.commit_part(shard, table, rows_in=source.num_rows, rejects=rejects, extra=extra)
