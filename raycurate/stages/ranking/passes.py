"""Rows whose value follows from a sum over the rows of their group: two passes over the features, where they lie.

    features --runs of shards: add up by group--> sums --each shard: its rows against the sums--> ranking

A group is a task or all rows. The ranking has a value for each row and no rank: `select` finds its cuts by counting.
Memory of a task: one part, and the sums of all groups that it meets; both passes resume, by runs and by shards.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import RankConfig
from raycurate.features.rows import features_of_table
from raycurate.run.filesystem import delete_folder
from raycurate.run.store import Manifest, Noun, ShardRecord
from raycurate.selection.ranked import RankedByPasses
from raycurate.stages.engine.shards import resumable_steps, run_missing_shards, step_name
from raycurate.stages.ranking.inputs import RankInputs

RUNS = 32
STEP, TOTAL = "sums", "work/total.npz"
Sums = dict[str, tuple[int, np.ndarray]]
"""Rows and their sum, by the name of the group."""


def rank_by_passes(
    noun: Noun, inputs: RankInputs, config: RankConfig, method: RankedByPasses, manifest: Manifest
) -> Manifest:
    """Write the value of every row."""
    runs = [(run.tolist(),) for run in np.array_split(np.arange(manifest.shards), min(RUNS, max(manifest.shards, 1)))]
    add_up = functools.partial(_add_up, noun, inputs, method)
    total: Sums = {}
    found = sorted(resumable_steps(noun, STEP, add_up, runs, max_tasks=config.max_tasks), key=lambda step: step[0])
    for number, _ in found:
        _add(total, _read(noun, step_name(STEP, number, "npz")))
    _write(noun, TOTAL, total)
    run_missing_shards(
        "rank",
        noun,
        functools.partial(_value_shard, noun, inputs, method),
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        max_tasks=config.max_tasks,
    )
    delete_folder(noun.filesystem, f"{noun.folder}/work")
    return noun.finish(metrics={"groups": len(total)})


def _add_up(noun: Noun, inputs: RankInputs, method: RankedByPasses, number: int, shards: list[int]) -> dict[str, Any]:
    """Task: the sums of some shards."""
    sums: Sums = {}
    for shard in shards:
        rows = inputs.features.read_part(shard)
        for name, at_B, features_BD in _groups(inputs, shard, rows):
            _add(sums, {name: (len(at_B), method.rank_sum(features_BD))})
    _write(noun, step_name(STEP, number, "npz"), sums)
    return {"groups": len(sums)}


def _value_shard(noun: Noun, inputs: RankInputs, method: RankedByPasses, shard: int) -> ShardRecord:
    """Task: the values of one shard."""
    rows, total = inputs.features.read_part(shard), _read(noun, TOTAL)
    value_N = np.full(rows.num_rows, np.nan)
    for name, at_B, features_BD in _groups(inputs, shard, rows):
        count, sum_X = total[name]
        value_N[at_B] = method.rank_value(features_BD, sum_X, count)
    table = pa.table(
        {
            "key": rows["key"],
            "cluster": pa.nulls(rows.num_rows, pa.int32()),
            "similarity": pa.nulls(rows.num_rows, pa.float32()),
            "rank": pa.nulls(rows.num_rows, pa.int64()),
            "value": pa.array(value_N),
        }
    )
    return noun.commit_part(shard, table, rows_in=rows.num_rows)


def _groups(inputs: RankInputs, shard: int, rows: pa.Table) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, places and features of the rows of each group in a shard."""
    features_ND = features_of_table(rows)
    if inputs.samples is None:
        return [("", np.arange(rows.num_rows), features_ND)] if rows.num_rows else []
    tasks = inputs.tasks_of(shard, rows["key"]).combine_chunks()
    names = sorted(pc.unique(tasks).to_pylist())
    places = [np.flatnonzero(pc.equal(tasks, name).to_numpy(zero_copy_only=False)) for name in names]
    return [(name, at_B, features_ND[at_B]) for name, at_B in zip(names, places, strict=True)]


def _add(total: Sums, more: Sums) -> None:
    for name, (rows, values) in more.items():
        held = total.get(name)
        total[name] = (rows, values) if held is None else (held[0] + rows, held[1] + values)


def _write(noun: Noun, name: str, sums: Sums) -> None:
    names = sorted(sums)
    content = io.BytesIO()
    arrays: dict[str, Any] = {f"sum{number}": sums[group][1] for number, group in enumerate(names)}
    rows = np.array([sums[group][0] for group in names], dtype=np.int64)
    np.savez(content, names=np.array(names, dtype=np.str_), rows=rows, **arrays)
    noun.write_bytes(name, content.getvalue())


def _read(noun: Noun, name: str) -> Sums:
    with noun.filesystem.open_input_file(f"{noun.folder}/{name}") as source, np.load(source) as found:
        pairs = zip(found["names"].tolist(), found["rows"].tolist(), strict=True)
        return {group: (rows, found[f"sum{number}"]) for number, (group, rows) in enumerate(pairs)}
