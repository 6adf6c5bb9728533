"""Feature rows in Arrow and Parquet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycurate.features.rows import (
    DIM_KEY,
    DTYPE_KEY,
    features_column,
    features_of_table,
    read_vectors,
    vectors_of,
    with_row_facts,
)


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
    assert np.array_equal(vectors_of(frame["features"]), rows_ND)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16])
def test_a_file_is_read_as_the_type_that_it_names(tmp_path, dtype):
    """Features and centroids alike, and lists of before by their own type."""
    rows_ND = rows_of(dtype)
    table = with_row_facts(pa.table({"v": features_column(rows_ND, dtype)}), "v", dtype)
    pq.write_table(table, tmp_path / "new.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), rows_ND.shape[1])
    pq.write_table(pa.table({"v": lists}), tmp_path / "old.parquet")
    for name in ("new", "old"):
        found_ND = read_vectors(str(tmp_path / f"{name}.parquet"), "v")
        assert found_ND.dtype == dtype
        assert np.array_equal(found_ND, rows_ND)


def test_duckdb_gives_a_rows_bytes(tmp_path):
    """The line of the module's documentation, where duckdb is installed."""
    duckdb = pytest.importorskip("duckdb")
    rows_ND = rows_of(np.float16)
    table = with_row_facts(pa.table({"key": list("abcdefghi"), "features": features_column(rows_ND)}))
    pq.write_table(table, tmp_path / "part-00000.parquet")
    found = duckdb.sql(f"SELECT key, features FROM '{tmp_path}/*.parquet' LIMIT 4").fetchnumpy()
    assert np.array_equal(vectors_of(found["features"]), rows_ND[:4])


def test_lists_of_an_older_run_directory_are_read(tmp_path):
    """The former column type, lists of halves, gives the same array."""
    rows_ND = rows_of(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), rows_ND.shape[1])
    pq.write_table(pa.table({"features": column}), tmp_path / "part.parquet")
    assert np.array_equal(features_of_table(pq.read_table(tmp_path / "part.parquet")), rows_ND)
