"""``rank`` for methods that compare rows with validation rows: similarities by shard, then one task that orders.

    features, features of the validation rows --per shard--> [rows, targets] --order--> rows by sample shard

A similarity task holds one part of the features and one part of the validation rows at a time; the ordering task reads
keys and similarities, no features. Its memory is told before any work.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import RankConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_of_table
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun
from raycurate.selection.influence import TargetMeans
from raycurate.selection.ranked import RankedByTargets
from raycurate.selection.turns import BYTES_PER_TARGET, nearest_of_targets
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import map_tasks, resumable_steps, stage_progress, step_name
from raycurate.stages.engine.shuffle import sort_table
from raycurate.stages.ranking.inputs import RankInputs
from raycurate.stages.ranking.rows import ranked_rows, write_ranked

STEP = "similar"


def rank_by_targets(
    noun: Noun, inputs: RankInputs, config: RankConfig, method: RankedByTargets, manifest: Manifest
) -> int:
    """Write all rows with their ranks, by sample shard; the number of files written.

    Raises:
        UserError: more rows and targets than one task may hold.
    """
    targets = next(map_tasks(_targets, [(inputs,)]))
    needed = manifest.rows_out * (method.rank_bytes_per_row(0) + BYTES_PER_TARGET * len(targets))
    if needed > config.memory_gb * 2**30:
        raise UserError(
            f"order '{config.order}' holds {manifest.rows_out:,} rows for {len(targets):,} targets in one task, about "
            f"{needed / 2**30:.2g} GiB; the bound is memory_gb={config.memory_gb:g}. Raise it where a node has more, "
            "or take fewer targets: a target is a task of the validation rows"
        )
    measure = functools.partial(_measure, noun, inputs, method, targets)
    order = functools.partial(_order_rows, noun, inputs, method, manifest.shards)
    with stage_progress("rank", noun, 2 * manifest.rows_out, "row passes") as progress:
        steps = resumable_steps(noun, STEP, measure, [()] * manifest.shards, max_tasks=config.max_tasks)
        for _, measured in steps:
            progress.advance(measured["rows"])
        for _, ordered in resumable_steps(noun, "ranked", order, [()]):
            progress.advance(ordered["rows"])
    return 1


def _targets(inputs: RankInputs) -> list[str]:
    """Task: the tasks that have validation rows with features, in the order of their turns."""
    return sorted({task for rows in _validation_rows(inputs, ["key"]) for task in rows["task"].unique().to_pylist()})


def _validation_rows(inputs: RankInputs, columns: list[str]) -> Iterator[pa.Table]:
    """The columns of the validation rows' features and their `task`, part by part."""
    assert inputs.targets is not None, "targets are read where they take turns"
    assert inputs.target_samples is not None, "and their tasks"
    for part in range(required(inputs.targets).shards):
        shown = inputs.targets.read_part(part, columns)
        named = inputs.target_samples.read_part(part, ["key", "task"])
        where = pc.index_in(shown["key"], value_set=named["key"].combine_chunks())
        yield shown.append_column("task", named["task"].take(where.combine_chunks()))


def _measure(noun: Noun, inputs: RankInputs, method: RankedByTargets, targets: list[str], shard: int) -> dict[str, Any]:
    """Task: the similarity of each row of a shard to each target."""
    rows_ND = features_of_table(inputs.features.read_part(shard, ["features"]))
    best_NT = np.full((len(rows_ND), len(targets)), -2.0)
    mean = TargetMeans(len(targets), rows_ND.shape[1])
    for shown in _validation_rows(inputs, ["key", "features"]):
        target_V = pc.index_in(shown["task"], value_set=pa.array(targets, pa.string())).to_numpy().astype(np.int64)
        if method.rank_likeness == "mean":
            mean.add(features_of_table(shown), target_V)
            continue
        np.maximum(best_NT, nearest_of_targets(rows_ND, features_of_table(shown), target_V, len(targets)), out=best_NT)
    if method.rank_likeness == "mean":
        best_NT = mean.cosines(rows_ND)
    content = io.BytesIO()
    np.save(content, best_NT)
    noun.write_bytes(step_name(STEP, shard, "npy"), content.getvalue())
    return {"rows": len(rows_ND)}


def _order_rows(noun: Noun, inputs: RankInputs, method: RankedByTargets, shards: int, number: int) -> dict[str, Any]:
    """Task: order all rows, sorted by key, by the similarities to the targets."""
    tables, parts = [], []
    for shard in range(shards):
        rows = inputs.features.read_part(shard, ["key"])
        place = {
            "shard": np.full(rows.num_rows, shard, dtype=np.int32),
            "row": np.arange(rows.num_rows, dtype=np.int32),
        }
        for name, values in place.items():
            rows = rows.append_column(name, pa.array(values))
        tables.append(rows)
        with noun.filesystem.open_input_file(f"{noun.folder}/{step_name(STEP, shard, 'npy')}") as source:
            parts.append(np.load(io.BytesIO(source.read())))
    rows = pa.concat_tables(tables)
    rows = rows.append_column("at", pa.array(np.arange(rows.num_rows)))
    rows = sort_table(rows.append_column("similarity", pa.nulls(rows.num_rows, pa.float32())), "key")
    made = method.rank_by_targets(np.concatenate(parts)[rows["at"].to_numpy()])
    write_ranked(noun, number, ranked_rows(rows, None, made))
    return {"rows": rows.num_rows}
