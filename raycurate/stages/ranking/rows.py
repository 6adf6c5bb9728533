"""The rows that the tasks of ``rank`` hand on: where a row came from, its rank and the number behind it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from raycurate.run.store import Noun
from raycurate.selection.ranked import Ordering
from raycurate.stages.engine.shards import step_name
from raycurate.stages.engine.shuffle import write_bucket_file

RANKED_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("row", pa.int32()),
        ("cluster", pa.int32()),
        ("similarity", pa.float32()),
        ("rank", pa.int64()),
        ("value", pa.float64()),
        ("shard", pa.int32()),
    ]
)


def ranked_rows(rows: pa.Table, cluster: int | None, made: Ordering) -> pa.Table:
    """The rows of one group with their ranks."""
    columns: dict[str, Any] = {
        "key": rows["key"],
        "row": rows["row"],
        "cluster": pa.array([cluster] * rows.num_rows, pa.int32()),
        "similarity": rows["similarity"],
        "rank": pa.array(made.rank_N),
        "value": pa.array(made.value_N),
        "shard": rows["shard"],
    }
    return pa.table(columns, schema=RANKED_SCHEMA)


def write_ranked(noun: Noun, number: int, table: pa.Table) -> None:
    """Write ranked rows so that each sample shard finds its own."""
    uri = noun.uri_of(step_name("ranked", number, "arrow"))
    write_bucket_file(uri, table.drop_columns("shard"), table["shard"].to_numpy())
