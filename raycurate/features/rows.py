"""Feature rows in Arrow and Parquet: one fixed-size binary value per row, the row's numbers as they lie in memory.

Parquet lists of halves are encoded number by number: 0.13 GB/s written and 0.7 read a core, where the same bytes as
fixed-size binary take 3.9 and 18 (1,024 x 20,480 float16, one core of an EPYC). The field's metadata say what the bytes
are. Any Parquet tool gives a row as the bytes of its numbers, `vectors_of` makes an array of such values, and
`read_vectors` one of a column of a file, whatever it holds:

    from raycurate.features.rows import read_vectors, vectors_of

    read_vectors("RUN/features/main/part-00000.parquet")                                    # [N, D] float16
    read_vectors("RUN/clusters/main/centroids.parquet", "centroid")                         # [K, D] float32
    vectors_of(pandas.read_parquet("RUN/features/main/part-00000.parquet")["features"])     # pandas, polars
    found = duckdb.sql("SELECT key, features FROM 'RUN/features/main/*.parquet' LIMIT 9").fetchnumpy()
    vectors_of(found["features"])                                                           # duckdb

Run directories that were made before hold lists; they are read as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike

DTYPE_KEY, DIM_KEY = b"raycurate.dtype", b"raycurate.dim"


def features_column(rows_ND: np.ndarray, dtype: DTypeLike = np.float16) -> pa.FixedSizeBinaryArray:
    """An [N, D] array as one Arrow column of ``dtype``, without a copy where it has that type already."""
    rows_ND = np.ascontiguousarray(rows_ND, dtype=dtype)
    kind = pa.binary(rows_ND.shape[1] * rows_ND.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows_ND), [None, pa.py_buffer(rows_ND)])


def features_of_table(table: pa.Table, name: str = "features", dtype: DTypeLike = np.float16) -> np.ndarray:
    """The [N, D] array of ``dtype`` in a table's column, without a copy if the column is one piece."""
    pieces = table[name].chunks
    column = pieces[0] if len(pieces) == 1 else pa.concat_arrays([pa.array([], table[name].type), *pieces])
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
    width = column.type.byte_width // np.dtype(dtype).itemsize
    data = column.buffers()[1] if len(column) else b""
    first = column.offset * width
    return np.frombuffer(data, dtype=dtype)[first : first + len(column) * width].reshape(-1, width)


def with_row_facts(table: pa.Table, name: str = "features", dtype: DTypeLike = np.float16) -> pa.Table:
    """The table with the type and number of values of a row in the column's metadata, for whoever opens the file."""
    at = table.schema.get_field_index(name)
    kind = np.dtype(dtype)
    facts: dict[Any, Any] = {
        DTYPE_KEY: kind.name,
        DIM_KEY: str(table.schema.field(at).type.byte_width // kind.itemsize),
    }
    return table.cast(table.schema.set(at, table.schema.field(at).with_metadata(facts)))


def vectors_of(values: Iterable[bytes], dtype: DTypeLike = np.float16) -> np.ndarray:
    """The [N, D] array of a column's values as another tool gives them, a row's bytes each; at least one."""
    return np.stack([np.frombuffer(value, dtype=dtype) for value in values])


def read_vectors(path: str, name: str = "features") -> np.ndarray:
    """The [N, D] array in a column of a Parquet file, of the type that the column's metadata name."""
    table = pq.read_table(path, columns=[name])
    facts = table.schema.field(name).metadata or {}
    return features_of_table(table, name, facts.get(DTYPE_KEY, b"float16").decode())
