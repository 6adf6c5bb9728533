"""Bucketed files bring every row to its bucket once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.features.rows import features_column, features_of_table
from raycurate.stages.engine.shuffle import read_buckets, sort_table, split_buckets, write_bucket_file


@given(
    files=st.lists(st.lists(st.integers(0, 9), max_size=30), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 10), max_size=3),
)
def test_every_row_arrives_once_in_its_bucket(files, cuts, tmp_path_factory):
    """For any division into files and ranges the rows are a permutation, each inside its range."""
    folder = tmp_path_factory.mktemp("shuffle")
    uris, expected = [], []
    for number, buckets in enumerate(files):
        rows = pa.table({"id": pa.array([f"{number}-{i}" for i in range(len(buckets))], pa.string())})
        uri = str(folder / f"{number}.arrow")
        present, counts = write_bucket_file(uri, rows, np.array(buckets, dtype=np.int64))
        assert dict(zip(present.tolist(), counts.tolist(), strict=True)) == {b: buckets.count(b) for b in set(buckets)}
        uris.append(uri)
        expected += [(f"{number}-{i}", bucket) for i, bucket in enumerate(buckets)]
    edges = sorted({0, 10, *cuts})
    found = []
    for low, high in zip(edges, edges[1:], strict=False):
        ids = read_buckets(uris, low, high)["id"].to_pylist()
        allowed = {i for i, bucket in expected if low <= bucket < high}
        assert set(ids) == allowed
        found += ids
    assert sorted(found) == sorted(i for i, _ in expected)


def test_feature_rows_survive_the_way(tmp_path):
    """Float16 rows come back bit for bit."""
    features_ND = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float16)
    table = pa.table({"row": pa.array(range(50), pa.int32()), "features": features_column(features_ND)})
    uri = str(tmp_path / "f.arrow")
    write_bucket_file(uri, table, np.arange(50) % 7)
    back = sort_table(read_buckets([uri], 0, 7), "row")
    assert np.array_equal(features_of_table(back), features_ND)


@pytest.mark.parametrize(("rows", "buckets", "reads"), [(40, 7, 2), (9000, 3, 3), (9000, 9000, 4)])
def test_neighbouring_buckets_of_a_file_on_a_store_are_one_range(s3, rows, buckets, reads):
    """Its size, its end, the range; a small file is its end, and a long index is asked for once more."""
    uri = f"s3://bucket/shuffle/{rows}-{buckets}.arrow"
    table = pa.table({"row": pa.array(range(rows), pa.int32()), "text": ["word" * 5] * rows})
    write_bucket_file(uri, table, np.arange(rows) % buckets)
    s3.requests.clear()
    found = read_buckets([uri], 1, buckets - 1)["row"].to_numpy()
    assert len(s3.requests) == reads
    assert set(found.tolist()) == {row for row in range(rows) if 0 < row % buckets < buckets - 1}


def test_a_bucket_file_is_an_arrow_stream(tmp_path):
    """Any reader of streams opens it; a table without rows has its columns."""
    uri = str(tmp_path / "f.arrow")
    write_bucket_file(uri, pa.table({"row": [0, 1, 2, 3]}), np.array([1, 0, 1, 0]))
    with pa.OSFile(uri) as file:
        assert ipc.open_stream(file).read_all()["row"].to_pylist() == [1, 3, 0, 2]
    write_bucket_file(uri, pa.table({"row": pa.array([], pa.int32())}), np.zeros(0, np.int64))
    assert read_buckets([uri], 0, 9).schema == pa.schema([("row", pa.int32())])


def test_a_file_of_an_earlier_version_says_what_to_do(tmp_path):
    """An interrupted stage may have left such files; its rerun cannot read them."""
    (tmp_path / "work/routed").mkdir(parents=True)
    uri = str(tmp_path / "work/routed/00000.arrow")
    with ipc.new_file(uri, pa.schema([("row", pa.int32())])):
        pass
    with pytest.raises(UserError, match=f"Delete the folder {tmp_path}/work"):
        read_buckets([uri], 0, 9)


@given(rows=st.lists(st.integers(0, 50), min_size=1, max_size=40), size=st.integers(1, 60))
def test_ranges_cover_all_buckets_without_overlap(rows, size):
    """Shards are neighbouring ranges from the first bucket to the last."""
    ranges = split_buckets(np.array(rows), size)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(rows)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in zip(ranges, ranges[1:], strict=False))
    assert len(ranges) <= max(1, -(-sum(rows) // size))
