"""Bring rows that belong together to one place, through bucketed files.

Each map task sorts its rows by bucket and writes one file: an Arrow IPC stream with one record batch per non-empty
bucket, and behind it an index of where each batch begins. The buckets that a reduce task wants lie side by side, so it
reads the end of every file and then one range of it. Rows are written and read once, nothing is held whole: a map task
holds one slice, a reduce task its own buckets. No table of all files and buckets exists anywhere.

    [schema] [batch of the 1st bucket] ... [end of the stream]
    [schema] [buckets, int64 B] [begin of each batch and end of the last, int64 B + 1] [bytes of the schema, B, mark]

Cost: 2 N row-bytes of disk traffic; on an object store (map tasks) x (reduce tasks) times three requests: the size, the
end, the range. Files are uncompressed, because features do not compress and texts live here for minutes only.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from raycurate.errors import UserError
from raycurate.run.ahead import map_ahead
from raycurate.run.filesystem import resolve, write_bytes

_MARK = b"BUCKETS1"
_TRAILER = struct.Struct("<qq8s")
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_END_BYTES = 64 << 10
"""What is read of a file's end at once: the index of up to 4,000 buckets."""


def write_bucket_file(uri: str, table: pa.Table, bucket_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write rows grouped by bucket; rows of one bucket keep their order.

    Returns:
        The buckets that have rows, ascending, int64 [B], and how many rows each has, int64 [B].
    """
    order = np.argsort(bucket_N, kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    buckets_B, starts_B = np.unique(np.asarray(bucket_N, dtype=np.int64)[order], return_index=True)
    ends_B = np.append(starts_B, len(order))[1:].astype(np.int64)
    whole = table.to_batches()[0].replace_schema_metadata(None) if table.num_rows else None
    sink = pa.BufferOutputStream()
    schema = table.schema.remove_metadata().serialize()
    sink.write(schema)
    begins = [sink.tell()]
    for start, end in zip(starts_B.tolist(), ends_B.tolist(), strict=True):
        assert whole is not None
        sink.write(whole.slice(start, end - start).serialize())
        begins.append(sink.tell())
    sink.write(_END_OF_STREAM)
    sink.write(schema)
    sink.write(np.concatenate([buckets_B, begins]).astype("<i8").tobytes())
    sink.write(_TRAILER.pack(schema.size, len(buckets_B), _MARK))
    filesystem, path = resolve(uri)
    write_bytes(filesystem, path, sink.getvalue())
    return buckets_B, ends_B - starts_B


def read_buckets(uris: Sequence[str], low: int, high: int) -> pa.Table:
    """All rows whose bucket lies in ``[low, high)``, file by file. At least one file is needed."""
    return pa.concat_tables(map_ahead(functools.partial(_read_range, low, high), uris))


def _read_range(low: int, high: int, uri: str) -> pa.Table:
    """The rows of one file whose bucket lies in ``[low, high)``."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as source:
        size = source.size()
        held = min(size, _END_BYTES)
        end = source.read_at(held, size - held)
        if not end.endswith(_MARK):
            raise UserError(
                f"{uri} was left by a stage that an earlier version of raycurate did not end. Delete the folder "
                f"{uri.rpartition('/work/')[0]}/work and run that stage again."
            )
        schema_bytes, count, _ = _TRAILER.unpack(end[-_TRAILER.size :])
        index = schema_bytes + 8 * (2 * count + 1) + _TRAILER.size
        if index > held:
            held, end = index, source.read_at(index, size - index)
        schema = ipc.read_schema(pa.py_buffer(end[-index:]))
        places = np.frombuffer(end, "<i8", 2 * count + 1, held - index + schema_bytes)
        first, last = np.searchsorted(places[:count], [low, high])
        begin, stop = places[count + first], places[count + last]
        known = begin >= size - held
        data = end[begin - size + held : stop - size + held] if known else source.read_at(stop - begin, begin)
    stream = pa.BufferReader(data)
    batches = [ipc.read_record_batch(ipc.read_message(stream), schema) for _ in range(first, last)]
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
