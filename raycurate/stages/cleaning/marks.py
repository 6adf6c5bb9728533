"""``marks``: per sample why it should not be chosen, if anything; what `select` leaves out, and nobody deletes.

A marks noun has one row per sample: key, reason (null: none), how like it is to what row, and by which row it is stood
for. Its summary has, per reason, the rows and two of them, those whose keys come first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun
from raycurate.stages.engine.names import MARKS

NOUN = MARKS
SUMMARY = "summary.json"
EXAMPLES = 2
MARKS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_id", pa.string()),
        ("reason", pa.string()),
        ("similarity", pa.float64()),
        ("like", pa.string()),
        ("like_source_id", pa.string()),
        ("group", pa.string()),
    ]
)
"""`like` is the row that stays in its place, or the test row that it tells of; `group` is null where a row is alone."""


def of_keys(keys: pa.Table, said: pa.Table) -> pa.Table:
    """One row for each of `keys` (key, source_id), with the first that is said of it."""
    at = pc.index_in(keys["key"], value_set=said["key"].combine_chunks()).combine_chunks()
    columns = {name: said[name].take(at) for name in MARKS_SCHEMA.names if name not in keys.column_names}
    return pa.table({"key": keys["key"], "source_id": keys["source_id"], **columns}).select(MARKS_SCHEMA.names)


def commit_marks(noun: Noun, shard: int, table: pa.Table) -> ShardRecord:
    """Commit the marks of one shard."""
    marked = table.filter(table["reason"].is_valid())
    examples = {
        reason: heapq.nsmallest(
            EXAMPLES, (row for row in marked.to_pylist() if row["reason"] == reason), key=lambda row: row["key"]
        )
        for reason in sorted(set(marked["reason"].to_pylist()))
    }
    extra = {"reasons": dict(Counter(marked["reason"].to_pylist())), "examples": examples}
    return noun.commit_part(shard, table.cast(MARKS_SCHEMA), rows_in=table.num_rows, extra=extra)


def finish_marks(noun: Noun, more: Mapping[str, Any]) -> Manifest:
    """Publish marks whose shards are all committed, with their summary and further numbers."""
    reasons: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    for record in noun.records().values():
        reasons.update(record.extra["reasons"])
        for reason, rows in record.extra["examples"].items():
            examples[reason] = heapq.nsmallest(EXAMPLES, [*examples.get(reason, []), *rows], key=lambda row: row["key"])
    noun.write_json(SUMMARY, {"reasons": dict(reasons), "examples": examples, **more})
    return noun.finish(metrics={"marked": sum(reasons.values()), "reasons": dict(sorted(reasons.items())), **more})
