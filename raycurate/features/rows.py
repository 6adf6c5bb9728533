"""Feature rows in Arrow: ``fixed_size_list<halffloat>[D]`` columns to and from arrays, without copies if possible."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def features_column(features_ND: np.ndarray) -> pa.FixedSizeListArray:
    """A float16 [N, D] array as one Arrow column."""
    flat = pa.array(np.ascontiguousarray(features_ND, dtype=np.float16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, features_ND.shape[1])


def features_of_table(table: pa.Table, name: str = "features") -> np.ndarray:
    """The float16 [N, D] array of a table's feature column."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=True).reshape(-1, width)
