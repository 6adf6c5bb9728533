"""Bring rows that belong together to one place, through bucketed files.

Each map task sorts its rows by bucket and writes one Arrow IPC file with one record batch per non-empty bucket; a reduce
task opens every file and reads only the batches of its bucket range. Rows are read and written once, nothing is held whole:
a map task holds one slice, a reduce task its own buckets.

Cost: 2 N row-bytes of disk traffic; (map tasks) x (reduce tasks) range reads. Files are uncompressed, because features do
not compress and texts live here for minutes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from raycurate.filesystem import resolve, write_bytes


@dataclass(frozen=True, slots=True)
class BucketFile:
    """One map task's file: its non-empty buckets in ascending order, and how many rows each has."""

    uri: str
    buckets: tuple[int, ...]
    rows: tuple[int, ...]

    def rows_between(self, low: int, high: int) -> int:
        """Rows whose bucket lies in ``[low, high)``."""
        return sum(n for bucket, n in zip(self.buckets, self.rows, strict=True) if low <= bucket < high)


def write_bucket_file(uri: str, table: pa.Table, bucket_N: np.ndarray) -> BucketFile:
    """Write rows grouped by bucket; rows of one bucket keep their order."""
    order = np.argsort(bucket_N, kind="stable")
    ordered = bucket_N[order]
    table = table.take(pa.array(order)).combine_chunks()
    buckets, starts = np.unique(ordered, return_index=True)
    ends = np.append(starts[1:], len(ordered))
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, table.schema) as writer:
        for start, end in zip(starts, ends, strict=True):
            for batch in table.slice(start, end - start).combine_chunks().to_batches():
                writer.write_batch(batch)
    filesystem, path = resolve(uri)
    write_bytes(filesystem, path, sink.getvalue())
    return BucketFile(uri, tuple(int(b) for b in buckets), tuple(int(n) for n in ends - starts))


def read_buckets(files: Sequence[BucketFile], low: int, high: int, schema: pa.Schema) -> pa.Table:
    """All rows whose bucket lies in ``[low, high)``, file by file."""
    batches: list[pa.RecordBatch] = []
    for file in files:
        wanted = [i for i, bucket in enumerate(file.buckets) if low <= bucket < high]
        if not wanted:
            continue
        filesystem, path = resolve(file.uri)
        with filesystem.open_input_file(path) as source:
            reader = ipc.open_file(source)
            batches += [reader.get_batch(i) for i in wanted]
    return pa.Table.from_batches(batches, schema=schema)


def sort_table(table: pa.Table, *columns: str) -> pa.Table:
    """Rows in ascending order of the columns."""
    return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in columns]))


def split_buckets(rows_per_bucket_B: np.ndarray, rows_per_shard: int) -> list[tuple[int, int]]:
    """Runs of neighbouring buckets that hold about ``rows_per_shard`` rows each; together they cover all buckets.

    Depends on the counts only, hence on the multiset of rows only. At least one run, even of no rows.
    """
    total = int(rows_per_bucket_B.sum())
    num_shards = max(1, -(-total // rows_per_shard))
    cumulative = np.cumsum(rows_per_bucket_B)
    cuts = [0]
    for shard in range(1, num_shards):
        cut = int(np.searchsorted(cumulative, total * shard / num_shards)) + 1
        if cut > cuts[-1] and cut < len(rows_per_bucket_B):
            cuts.append(cut)
    return list(zip(cuts, [*cuts[1:], len(rows_per_bucket_B)], strict=True))
