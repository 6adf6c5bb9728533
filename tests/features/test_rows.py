"""Feature rows in Arrow and Parquet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycurate.features.rows import DIM_KEY, DTYPE_KEY, features_column, features_of_table, with_row_facts


def rows_of(dtype: type, rows: int = 9, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(-90, 90, (rows, dim)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16])
def test_rows_come_back_bit_for_bit_from_slices_and_several_pieces(dtype):
    """Whatever Arrow did with the column: sliced, filtered, put together of several."""
    rows_ND = rows_of(dtype)
    table = pa.table({"features": features_column(rows_ND, dtype)})
    assert np.array_equal(features_of_table(table, dtype=dtype), rows_ND)
    assert np.array_equal(features_of_table(table.slice(3, 4), dtype=dtype), rows_ND[3:7])
    twice = pa.concat_tables([table.slice(2), table.slice(0, 0), table.slice(0, 2)])
    assert np.array_equal(features_of_table(twice, dtype=dtype), np.roll(rows_ND, -2, axis=0))
    odd = table.filter(pa.array([i % 2 == 1 for i in range(len(rows_ND))]))
    assert np.array_equal(features_of_table(odd, dtype=dtype), rows_ND[1::2])
    assert features_of_table(table.slice(0, 0), dtype=dtype).shape == (0, 5)


def test_a_file_says_what_its_bytes_are(tmp_path):
    """Another tool finds type and width in the column's metadata, and one value is one row."""
    rows_ND = rows_of(np.float16)
    table = with_row_facts(pa.table({"key": list("abcdefghi"), "features": features_column(rows_ND)}))
    pq.write_table(table, tmp_path / "part.parquet")
    field = pq.read_schema(tmp_path / "part.parquet").field("features")
    assert (field.metadata[DTYPE_KEY], field.metadata[DIM_KEY]) == (b"float16", b"5")
    frame = pq.read_table(tmp_path / "part.parquet").to_pandas()
    assert np.array_equal(np.frombuffer(frame["features"][3], dtype="float16"), rows_ND[3])


def test_lists_of_an_older_run_directory_are_read(tmp_path):
    """The former column type, lists of halves, gives the same array."""
    rows_ND = rows_of(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), rows_ND.shape[1])
    pq.write_table(pa.table({"features": column}), tmp_path / "part.parquet")
    assert np.array_equal(features_of_table(pq.read_table(tmp_path / "part.parquet")), rows_ND)
