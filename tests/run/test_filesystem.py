"""Paths on any file system: what they name, and what a small file costs on an object store."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from raycurate.errors import UserError
from raycurate.features.rows import features_column
from raycurate.run.filesystem import exists, read_json, resolve, table_to_parquet, write_bytes, write_json, write_table

URIS = ["s3://b", "s3://b/", "s3://b/x", "s3://b/x/", "s3://b/a%20b/c%2Bd", "s3://b/x?region=eu-west-1", "gs://b/x/y"]


@pytest.mark.parametrize("uri", URIS)
def test_a_uri_names_what_it_names_to_pyarrow(endpoint, uri):
    """The path of a bucket's client is the one that pyarrow makes of the whole URI."""
    filesystem, path = resolve(uri)
    other, expected = pafs.FileSystem.from_uri(uri)
    assert path == expected
    assert type(filesystem) is type(other)
    assert getattr(filesystem, "region", None) == getattr(other, "region", None)


def test_the_paths_of_a_bucket_share_one_client(endpoint):
    """Each client has connections of its own, so a path more makes none; another bucket or region is another client."""
    first = resolve("s3://b/x")[0]
    assert resolve("s3://b/y/z")[0] is first
    assert resolve("s3://other/x")[0] is not first
    assert resolve("s3://b/x?region=eu-west-1")[0] is not first


def test_a_small_file_is_written_in_one_request_and_read_in_two(s3):
    """Its size is asked for before its bytes; what is not there is one question."""
    filesystem, path = resolve("s3://bucket/small/value.json")
    s3.requests.clear()
    write_json(filesystem, path, {"a": 1})
    assert [line.split()[0] for line in s3.requests] == ["PUT"]
    s3.requests.clear()
    assert read_json(filesystem, path) == {"a": 1}
    assert [line.split()[0] for line in s3.requests] == ["HEAD", "GET"]
    s3.requests.clear()
    assert read_json(filesystem, f"{path}.gone") is None
    assert [line.split()[0] for line in s3.requests] == ["HEAD"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    """A folder has the name of the file."""
    (tmp_path / "taken" / "by").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_bytes(*resolve(str(tmp_path / "taken")), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("rows", [0, 3, 5000])
def test_a_table_is_written_with_its_size_and_sum(tmp_path, rows, compression):
    """Pages above and below what is added up by a thread; nothing else is left in the folder."""
    noise = np.random.default_rng(0).standard_normal((rows, 256)).astype(np.float16)
    table = pa.table({"key": [f"{row}" for row in range(rows)], "features": features_column(noise)})
    filesystem, path = resolve(str(tmp_path / "new" / "part.parquet"))
    size, checksum = write_table(filesystem, path, table, compression=compression, row_group_rows=2000)
    data = (tmp_path / "new" / "part.parquet").read_bytes()
    assert (size, checksum) == (len(data), zlib.crc32(data))
    assert pq.read_table(path).equals(table)
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["part.parquet"]


def test_a_store_gets_a_table_with_the_same_size_and_sum(tmp_path):
    """In one call, from memory."""
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    table = pa.table({"key": ["a", "b"]})
    assert write_table(filesystem, "a.parquet", table) == write_table(*resolve(str(tmp_path / "b.parquet")), table)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("damage", [b"", b'{"rows": 3', b"\x00\xff\x00"])
def test_a_damaged_file_is_named_with_what_mends_it(tmp_path, damage):
    """Of a noun its folder can go; of the run directory itself nothing must."""
    for name, advice in (("manifest.json", "remove .*samples/main and run"), ("run.json", "from a copy$")):
        filesystem, path = resolve(str(tmp_path / "samples" / "main" / name))
        write_bytes(filesystem, path, damage)
        with pytest.raises(UserError, match=f"{name} is damaged: its {len(damage)} bytes are no JSON.*{advice}"):
            read_json(filesystem, path)


def test_what_lies_below_a_file_is_not_there(tmp_path):
    """A path through a file names nothing, which is no error of reading."""
    filesystem, path = resolve(str(tmp_path / "file"))
    write_bytes(filesystem, path, b"x")
    assert not exists(filesystem, f"{path}/value.json")
    assert read_json(filesystem, f"{path}/value.json") is None


@pytest.mark.parametrize("rows", [0, 1, 3000])
@pytest.mark.parametrize("row_group_rows", [None, 7])
def test_an_uncompressed_table_of_any_kind_of_numbers_has_room_in_its_buffer(rows, row_group_rows):
    """Nulls everywhere, wide vectors, one byte a value, bits: what is written is what was there."""
    place_N = np.arange(rows)
    every_third = [None if place % 3 else place for place in place_N.tolist()]
    table = pa.table(
        {
            "key": pa.array([None if place is None else "k" * (place % 50) for place in every_third], pa.string()),
            "flag": pa.array([None if place is None else place % 2 == 0 for place in every_third], pa.bool_()),
            "small": pa.array([None if place is None else place % 100 for place in every_third], pa.int8()),
            "number": pa.array(every_third, pa.float64()),
            "list": pa.array([None if place is None else [place] * (place % 4) for place in every_third]).cast(
                pa.list_(pa.int32())
            ),
            "vector": features_column(np.ones((rows, 512), dtype=np.float16)),
        }
    )
    data = table_to_parquet(table, row_group_rows=row_group_rows, compression="none")
    assert pq.read_table(pa.BufferReader(data)).equals(table)
