"""Bucketed files bring every row to its bucket once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

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


@given(rows=st.lists(st.integers(0, 50), min_size=1, max_size=40), size=st.integers(1, 60))
def test_ranges_cover_all_buckets_without_overlap(rows, size):
    """Shards are neighbouring ranges from the first bucket to the last."""
    ranges = split_buckets(np.array(rows), size)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(rows)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in zip(ranges, ranges[1:], strict=False))
    assert len(ranges) <= max(1, -(-sum(rows) // size))
