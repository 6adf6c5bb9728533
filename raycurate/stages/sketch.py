"""``sketch``: the random Fourier sketch of every feature row, once for all selections that are measured later.

    features --per shard: project, cos, sin--> sketches (512 small integers a row by default) and their total

One task per shard; the frequencies come from the seed, so they are made in each process and never stored. The
arithmetic, its cost and its error are in ``raycurate.selection.sketch``.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
from pydantic import Field

from raycurate.features.rows import features_column, features_of_table
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.selection.sketch import SketchSum, frequencies, sketch_rows, sum_sketches
from raycurate.settings import Label, StageConfig, execution
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.shards import describe, run_missing_shards, skip_if_done

TOTAL_FILE = "total.json"


class SketchConfig(StageConfig):
    """``sketch``: random Fourier features of the feature rows."""

    frequencies: int = Field(256, ge=2, le=16_384, description="M; the standard error of MMD^2 is about sqrt(2 / M)")
    sigma: float = Field(1.0, gt=0, description="width of the Gaussian kernel")
    seed: int = Field(0, ge=0, description="of the frequencies")
    features: Label = "main"
    label: Label = execution("main")
    max_tasks: int = execution(64, ge=1)


@in_session
def sketch(run: Run, config: SketchConfig) -> Manifest:
    """Write the ``sketches`` noun: key and sketch per feature row; ``total.json``: their sum."""
    features = run.noun("features", config.features)
    feature_manifest = required(features)
    inputs = {"features": feature_manifest.fingerprint}
    description = describe("sketch", config, inputs, [feature_manifest])
    noun = run.noun("sketches", config.label)
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description)
    make = functools.partial(_sketch_shard, noun, features, int(feature_manifest.metrics["dimension"]), config)
    run_missing_shards(
        "sketch",
        noun,
        make,
        num_shards=feature_manifest.shards,
        total_rows=feature_manifest.rows_out,
        max_tasks=config.max_tasks,
    )
    total = SketchSum(rows=0, total_F=np.zeros(2 * config.frequencies, dtype=np.int64))
    for record in noun.records().values():
        total += SketchSum(rows=record.rows_out, total_F=np.array(record.extra["total"], dtype=np.int64))
    noun.write_json(TOTAL_FILE, {"rows": total.rows, "total": total.total_F.tolist()})
    return noun.finish()


def read_total(noun: Noun) -> SketchSum:
    """The sum over all rows of a finished sketch."""
    value = noun.read_json(TOTAL_FILE)
    assert value is not None, "a finished sketch has its total"
    return SketchSum(rows=value["rows"], total_F=np.array(value["total"], dtype=np.int64))


def sketch_of_table(table: pa.Table) -> np.ndarray:
    """The int16 [N, 2 M] array of a part."""
    return features_of_table(table, "sketch", np.int16)


def _sketch_shard(noun: Noun, features: Noun, dimension: int, config: SketchConfig, shard: int) -> ShardRecord:
    rows = features.read_part(shard)
    frequency_DM = frequencies(dimension, config.frequencies, config.seed)
    sketch_NF = sketch_rows(features_of_table(rows), frequency_DM, config.sigma)
    table = pa.table({"key": rows["key"], "sketch": features_column(sketch_NF, np.int16)})
    total = sum_sketches(sketch_NF).total_F.tolist()
    return noun.commit_part(shard, table, rows_in=rows.num_rows, extra={"total": total})
