"""``rank`` for methods whose numbers follow from sums over all rows: streamed twice, and nothing is regrouped.

    features --per run of shards: add--> sums --one task: add, fit--> what numbers follow from --per shard--> ranking

A run is some neighbouring shards, of which there are at most `RUNS`, so that sums take as many files at most; they are
added in the order of the shards. A row whose features are zero has no image: it is in the cluster `NO_IMAGE` and has no
number; the others are one cluster. Numbers are rounded to `DIGIT`. Memory of a task: one part of the features, and the
sums.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.config import RankConfig
from raycurate.features.rows import features_of_table
from raycurate.run.store import Manifest, Noun, ShardRecord
from raycurate.selection.ranked import NO_IMAGE, RankedBySums
from raycurate.stages.engine.shards import resumable_steps, run_missing_shards, stage_progress, step_name
from raycurate.stages.ranking.inputs import RankInputs
from raycurate.stages.ranking.rows import RANKED_SCHEMA

RUNS = 32
DIGIT = 2.0**-40
WITH_IMAGE = NO_IMAGE + 1
Arrays = dict[str, NDArray[np.float64]]


def rank_by_sums(noun: Noun, inputs: RankInputs, config: RankConfig, method: RankedBySums, manifest: Manifest) -> None:
    """Commit the number of every row, and write the sizes of both clusters."""
    runs = [part.tolist() for part in np.array_split(np.arange(manifest.shards), min(RUNS, manifest.shards))]
    add = functools.partial(_add_run, noun, inputs, method)
    fit = functools.partial(_fit, noun, method, len(runs))
    with stage_progress("rank", noun, manifest.rows_out, "rows") as progress:
        for _ in resumable_steps(noun, "summed", add, [(run,) for run in runs], max_tasks=config.max_tasks):
            progress.advance(0)
        for _ in resumable_steps(noun, "fitted", fit, [()]):
            progress.advance(0)
    run_missing_shards(
        "rank",
        noun,
        functools.partial(_value_shard, noun, inputs, method),
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        max_tasks=config.max_tasks,
    )
    shown = sum(record.extra["shown"] for record in noun.records().values())
    sizes = {NO_IMAGE: manifest.rows_out - shown, WITH_IMAGE: shown}
    table = {"cluster": pa.array(list(sizes), pa.int32()), "size": pa.array(list(sizes.values()), pa.int64())}
    noun.write_table("clusters.parquet", pa.table(table))


def _add_run(noun: Noun, inputs: RankInputs, method: RankedBySums, number: int, shards: list[int]) -> dict[str, Any]:
    """Task: the sums of some shards, in their order."""
    total: Arrays | None = None
    for shard in shards:
        features_ND, length_N = _shown_rows(inputs.features.read_part(shard))[1:]
        if len(features_ND):
            own = method.sum_rows(features_ND, length_N)
            total = own if total is None else {name: total[name] + values for name, values in own.items()}
    if total is not None:
        _write(noun, step_name("summed", number, "npz"), total)
    return {"some": total is not None}


def _fit(noun: Noun, method: RankedBySums, runs: int, number: int) -> dict[str, Any]:
    """Task: all sums together, and what follows from them."""
    total: Arrays | None = None
    for run in range(runs):
        result = noun.read_json(step_name("summed", run, "json"))
        if result is not None and result["some"]:
            own = _read(noun, step_name("summed", run, "npz"))
            total = own if total is None else {name: total[name] + values for name, values in own.items()}
    _write(noun, step_name("fitted", number, "npz"), {} if total is None else method.fit_sums(total))
    return {}


def _value_shard(noun: Noun, inputs: RankInputs, method: RankedBySums, shard: int) -> ShardRecord:
    """Task: the number of each row of a shard with an image."""
    rows = inputs.features.read_part(shard)
    shown_N, features_ND, length_N = _shown_rows(rows)
    value_N = np.full(rows.num_rows, np.nan)
    if shown_N.any():
        value_N[shown_N] = method.value_rows(features_ND, length_N, _read(noun, step_name("fitted", 0, "npz")))
        value_N[shown_N] = np.rint(value_N[shown_N] / DIGIT) * DIGIT
    fields = [field for field in RANKED_SCHEMA if field.name not in ("row", "shard")]
    columns = {
        "key": rows["key"],
        "cluster": pa.array(np.where(shown_N, WITH_IMAGE, NO_IMAGE), pa.int32()),
        "similarity": pa.nulls(rows.num_rows, pa.float32()),
        "rank": pa.nulls(rows.num_rows, pa.int64()),
        "value": pa.array(value_N, pa.float64(), from_pandas=True),
    }
    table = pa.table(columns, schema=pa.schema(fields))
    return noun.commit_part(shard, table, rows_in=rows.num_rows, extra={"shown": int(shown_N.sum())})


def _shown_rows(rows: pa.Table) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[np.float64]]:
    """Which rows of a part have an image, their features, and the lengths that these had (1 where none are kept)."""
    features_ND = features_of_table(rows)
    shown_N = np.asarray(features_ND.any(axis=1))
    has_lengths = "length" in rows.column_names
    length_N = rows["length"].cast(pa.float64()).to_numpy() if has_lengths else np.ones(rows.num_rows)
    return shown_N, features_ND[shown_N], length_N[shown_N]


def _write(noun: Noun, name: str, arrays: Mapping[str, NDArray[np.float64]]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy takes its own flags for arrays too
    noun.write_bytes(name, content.getvalue())


def _read(noun: Noun, name: str) -> Arrays:
    with noun.filesystem.open_input_file(f"{noun.folder}/{name}") as source, np.load(source) as found:
        return {each: found[each] for each in found.files}
