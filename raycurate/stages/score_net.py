"""The difficulty of every row by the score-net that a finetune trained: ``row_scores/score_net``.

    features/<score_net> x theta --by shard--> difficulty = -theta . x

A row without features is quarantined, with the reason. Cost: one pass over the features, and the training before it,
whose seconds the noun's own include: what a method that reads it costs.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from raycurate.features.rows import features_of_table
from raycurate.run.filesystem import read_bytes
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.names import ROW_SCORES, SCORE_NET, score_label
from raycurate.stages.engine.shards import names_of, run_missing_shards, skip_if_done
from raycurate.stages.table import version_of
from raycurate.stages.workers.fragments import SOURCE_COLUMNS, rejects_of
from raycurate.training.config import NET_FILE, FinetuneConfig


def score_features(run: Run, config: FinetuneConfig) -> Noun | None:
    """What the score-net reads, None where none is trained.

    Raises:
        UserError: features that are not there, or of an earlier state of the samples.
    """
    if config.score_net is None:
        return None
    features = run.noun("features", config.score_net)
    required(features, of=required(run.noun("samples", config.samples)))
    return features


def write_difficulties(run: Run, config: FinetuneConfig, model: Manifest) -> Manifest:
    """Write the ``row_scores`` noun of all samples by the net of a finished training."""
    assert config.score_net is not None, "the caller looked"
    samples, features = run.noun("samples", config.samples), run.noun("features", config.score_net)
    manifest = required(samples)
    read = [manifest, required(features), model]
    inputs = {"samples": manifest.fingerprint, "features": read[1].fingerprint, "model": model.fingerprint}
    description = {
        "stage": SCORE_NET,
        "stage_version": version_of(SCORE_NET),
        "config": {},
        "inputs": inputs,
        "made_from": names_of(read),
    }
    noun = run.noun(ROW_SCORES, score_label(config.label, SCORE_NET))
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace)
    theta_D = _theta(run.noun("models", config.label))
    run_missing_shards(
        "score",
        noun,
        functools.partial(_shard, samples, features, noun, theta_D),
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        strict=config.strict,
        num_cpus=0.5,
        max_tasks=config.max_tasks,
    )
    noun.add_seconds(max(model.seconds, float(model.metrics["seconds"])))
    return noun.finish(metrics={"theta_norm": float(np.linalg.norm(theta_D))})


def _theta(model: Noun) -> np.ndarray:
    data = read_bytes(model.filesystem, f"{model.folder}/final/{NET_FILE}")
    theta_D: np.ndarray = safetensors.numpy.load(data)["theta"]
    return theta_D


def _shard(samples: Noun, features: Noun, noun: Noun, theta_D: np.ndarray, shard: int) -> ShardRecord:
    source = samples.read_part(shard, SOURCE_COLUMNS)
    found = features.read_part(shard)
    where = pc.index_in(source["key"], value_set=found["key"].combine_chunks()).combine_chunks()
    difficulty: Any = -(features_of_table(found).astype(np.float64) @ theta_D)
    lacks_N = where.is_null().to_numpy(zero_copy_only=False)
    bad = lacks_N.nonzero()[0]
    detail = f"features/{features.label} has no row of this key"
    rejects = rejects_of(source, bad, ["no_features"] * len(bad), [detail] * len(bad))
    table = pa.table({"key": source["key"], "difficulty": pa.array(difficulty, pa.float64()).take(where)})
    return noun.commit_part(shard, table.filter(pa.array(~lacks_N)), rows_in=source.num_rows, rejects=rejects)
