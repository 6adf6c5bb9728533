"""Rows whose value follows from sums over the rows of their group: two passes over the features, where they lie.

    features --runs of shards: add up by group--> sums --one task: add, fit--> what values follow from
    features --each shard: its rows against what was fitted--> ranking

A group is a task or all rows. A run is some neighbouring shards, at most `RUNS` of them, so that sums take as many
files at most; they are added in the order of the shards. The ranking has a value for each row and no rank: `select`
finds its cuts by counting. Where a method tells images apart, rows whose features are zero have none: they are in the
cluster `NO_IMAGE`, add nothing and have no value, the others are one cluster, and ``clusters.parquet`` has both sizes.

Values are rounded to `DIGIT`, so that the last bits of a decomposition or a product on another machine decide nothing.
Memory of a task: one part, and the sums of all groups that it meets; all steps resume.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.config import RankConfig
from raycurate.features.rows import features_of_table
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun
from raycurate.selection.ranked import NO_IMAGE, RankedByPasses
from raycurate.stages.engine.shards import resumable_steps, run_missing_shards, step_name
from raycurate.stages.ranking.inputs import RankInputs
from raycurate.stages.ranking.rows import RANKED_SCHEMA

RUNS = 32
DIGIT = 2.0**-40
WITH_IMAGE = NO_IMAGE + 1
SUMS, FITTED = "sums", "fitted"
Arrays = dict[str, NDArray[np.float64]]
Groups = dict[str, tuple[int, Arrays]]
"""Number of rows and arrays by the name of the group."""


def rank_by_passes(
    noun: Noun, inputs: RankInputs, config: RankConfig, method: RankedByPasses, manifest: Manifest
) -> dict[str, int]:
    """Commit the value of every row; returns how many groups there are."""
    runs = [(run.tolist(),) for run in np.array_split(np.arange(manifest.shards), min(RUNS, max(manifest.shards, 1)))]
    add_up = functools.partial(_add_up, noun, inputs, method)
    for _ in resumable_steps(noun, SUMS, add_up, runs, max_tasks=config.max_tasks):
        continue
    fit = functools.partial(_fit, noun, method, len(runs))
    ((_, fitted),) = resumable_steps(noun, FITTED, fit, [()])
    run_missing_shards(
        "rank",
        noun,
        functools.partial(_value_shard, noun, inputs, method),
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        max_tasks=config.max_tasks,
    )
    if method.rank_images:
        shown = sum(record.extra["shown"] for record in noun.records().values())
        sizes = {NO_IMAGE: manifest.rows_out - shown, WITH_IMAGE: shown}
        columns = {"cluster": pa.array(list(sizes), pa.int32()), "size": pa.array(list(sizes.values()), pa.int64())}
        noun.write_table("clusters.parquet", pa.table(columns))
    return {"groups": fitted["groups"]}


def _add_up(noun: Noun, inputs: RankInputs, method: RankedByPasses, number: int, shards: list[int]) -> dict[str, Any]:
    """Task: the sums of some shards, in their order."""
    sums: Groups = {}
    for shard in shards:
        rows = inputs.features.read_part(shard)
        for name, at_B, features_BD, length_B in _groups(inputs, method, shard, rows):
            _add(sums, {name: (len(at_B), method.rank_sum(features_BD, length_B))})
    _write(noun, step_name(SUMS, number, "npz"), sums)
    return {"groups": len(sums)}


def _fit(noun: Noun, method: RankedByPasses, runs: int, number: int) -> dict[str, Any]:
    """Task: all sums together, and what follows from them."""
    total: Groups = {}
    for run in range(runs):
        _add(total, _read(noun, step_name(SUMS, run, "npz")))
    fitted = {name: (count, method.rank_fit(arrays, count)) for name, (count, arrays) in total.items()}
    _write(noun, step_name(FITTED, number, "npz"), fitted)
    return {"groups": len(fitted)}


def _value_shard(noun: Noun, inputs: RankInputs, method: RankedByPasses, shard: int) -> ShardRecord:
    """Task: the values of one shard."""
    rows, fitted = inputs.features.read_part(shard), _read(noun, step_name(FITTED, 0, "npz"))
    value_N, shown_N = np.full(rows.num_rows, np.nan), np.zeros(rows.num_rows, dtype=bool)
    for name, at_B, features_BD, length_B in _groups(inputs, method, shard, rows):
        value_N[at_B] = np.rint(method.rank_value(features_BD, length_B, fitted[name][1]) / DIGIT) * DIGIT
        shown_N[at_B] = True
    clusters = pa.array(np.where(shown_N, WITH_IMAGE, NO_IMAGE), pa.int32())
    columns = {
        "key": rows["key"],
        "cluster": clusters if method.rank_images else pa.nulls(rows.num_rows, pa.int32()),
        "similarity": pa.nulls(rows.num_rows, pa.float32()),
        "rank": pa.nulls(rows.num_rows, pa.int64()),
        "value": pa.array(value_N, from_pandas=True),
    }
    schema = pa.schema([field for field in RANKED_SCHEMA if field.name in columns])
    table = pa.table(columns, schema=schema)
    return noun.commit_part(shard, table, rows_in=rows.num_rows, extra={"shown": int(shown_N.sum())})


def _groups(
    inputs: RankInputs, method: RankedByPasses, shard: int, rows: pa.Table
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[Any], NDArray[np.float64]]]:
    """Name, places, features and lengths of the rows of each group in a shard; only such as have an image, if asked."""
    features_ND = features_of_table(rows)
    has_lengths = "length" in rows.column_names
    length_N = rows["length"].cast(pa.float64()).to_numpy() if has_lengths else np.ones(rows.num_rows)
    counts_N = np.asarray(features_ND.any(axis=1)) if method.rank_images else np.ones(rows.num_rows, dtype=bool)
    for name, own_N in _tasks(inputs, shard, rows):
        at_B = np.flatnonzero(counts_N & own_N)
        if at_B.size:
            yield name, at_B, features_ND[at_B], length_N[at_B]


def _tasks(inputs: RankInputs, shard: int, rows: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name of each group of a shard, and which rows are of it, bool [N]."""
    if inputs.samples is None:
        yield "", np.ones(rows.num_rows, dtype=bool)
        return
    tasks = inputs.tasks_of(shard, rows["key"]).combine_chunks()
    for name in sorted(pc.unique(tasks).to_pylist()):
        yield name, pc.equal(tasks, name).to_numpy(zero_copy_only=False)


def _add(total: Groups, more: Groups) -> None:
    for name, (rows, arrays) in more.items():
        held = total.get(name)
        added = arrays if held is None else {each: held[1][each] + values for each, values in arrays.items()}
        total[name] = (rows if held is None else held[0] + rows, added)


def _write(noun: Noun, name: str, groups: Mapping[str, tuple[int, Arrays]]) -> None:
    names = sorted(groups)
    arrays: dict[str, Any] = {
        f"{number}/{each}": values for number, group in enumerate(names) for each, values in groups[group][1].items()
    }
    content = io.BytesIO()
    rows = np.array([groups[group][0] for group in names], dtype=np.int64)
    np.savez(content, names=np.array(names, dtype=np.str_), rows=rows, **arrays)
    noun.write_bytes(name, content.getvalue())


def _read(noun: Noun, name: str) -> Groups:
    with noun.filesystem.open_input_file(f"{noun.folder}/{name}") as source, np.load(source) as found:
        counts = dict(enumerate(zip(found["names"].tolist(), found["rows"].tolist(), strict=True)))
        held: dict[int, Arrays] = {number: {} for number in counts}
        for entry in found.files:
            number, slash, each = entry.partition("/")
            if slash:
                held[int(number)][each] = found[entry]
        return {group: (rows, held[number]) for number, (group, rows) in counts.items()}
