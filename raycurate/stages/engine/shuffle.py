"""Bring rows that belong together to one place, through bucketed files.

Each map task sorts its rows by bucket and writes one Arrow IPC file with one record batch per non-empty bucket; a
reduce task opens every file and reads only the batches of its bucket range. Rows are written and read once, nothing is
held whole: a map task holds one slice, a reduce task its own buckets. Which bucket each batch holds stands in the
file's schema metadata, so no table of all files and buckets exists anywhere.

Cost: 2 N row-bytes of disk traffic; (map tasks) x (reduce tasks) range reads. Files are uncompressed, because features
do not compress and texts live here for minutes only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from raycurate.run.filesystem import resolve, write_bytes

BUCKETS_KEY = b"raycurate.buckets"


def write_bucket_file(uri: str, table: pa.Table, bucket_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write rows grouped by bucket; rows of one bucket keep their order.

    Returns:
        The buckets that have rows, ascending, int64 [B], and how many rows each has, int64 [B].
    """
    order = np.argsort(bucket_N, kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    buckets_B, starts_B = np.unique(np.asarray(bucket_N, dtype=np.int64)[order], return_index=True)
    ends_B = np.append(starts_B, len(order))[1:].astype(np.int64)
    schema = table.schema.with_metadata({BUCKETS_KEY: buckets_B.astype("<i8").tobytes()})
    sink = pa.BufferOutputStream()
    whole = table.to_batches()[0] if table.num_rows else None
    with ipc.new_file(sink, schema) as writer:
        for start, end in zip(starts_B.tolist(), ends_B.tolist(), strict=True):
            assert whole is not None
            writer.write_batch(whole.slice(start, end - start).replace_schema_metadata(schema.metadata))
    filesystem, path = resolve(uri)
    write_bytes(filesystem, path, sink.getvalue())
    return buckets_B, ends_B - starts_B


def read_buckets(uris: Sequence[str], low: int, high: int) -> pa.Table:
    """All rows whose bucket lies in ``[low, high)``, file by file. At least one file is needed."""
    batches: list[pa.RecordBatch] = []
    for uri in uris:
        filesystem, path = resolve(uri)
        with filesystem.open_input_file(path) as source:
            reader = ipc.open_file(source)
            buckets_B = np.frombuffer(reader.schema.metadata[BUCKETS_KEY], dtype="<i8")
            schema = reader.schema.remove_metadata()
            first, last = np.searchsorted(buckets_B, [low, high])
            batches += [reader.get_batch(i).replace_schema_metadata(None) for i in range(first, last)]
    return pa.Table.from_batches(batches, schema=schema)


def sort_table(table: pa.Table, *columns: str) -> pa.Table:
    """Rows in ascending order of the columns."""
    return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in columns]))


def split_buckets(rows_B: np.ndarray, rows_per_shard: int) -> list[tuple[int, int]]:
    """Runs of neighbouring buckets that hold about ``rows_per_shard`` rows each; together they cover all buckets.

    Depends on the counts only, hence on the multiset of rows only. At least one run, even of no rows.
    """
    total = int(rows_B.sum())
    num_shards = max(1, -(-total // rows_per_shard))
    cumulative_B = np.cumsum(rows_B)
    cuts = [0]
    for shard in range(1, num_shards):
        cut = int(np.searchsorted(cumulative_B, total * shard / num_shards)) + 1
        if cuts[-1] < cut < len(rows_B):
            cuts.append(cut)
    return list(zip(cuts, [*cuts[1:], len(rows_B)], strict=True))
