"""Videos inside of tar shards and of tables: the rows that the files give, in bounded memory; damage is counted."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reject
from raycurate.samples.readers import open_source
from raycurate.samples.rows import ReadOptions
from raycurate.samples.videos import VideoOptions
from tests.films import numbers_of, write_film
from tests.hostile import encoded

pytest.importorskip("av")
FRAMES = "<image>\n<image>"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two films, whose frames 1 and 3 (of four), 2 and 6 (of eight) are shown."""
    folder = tmp_path_factory.mktemp("films")
    return [write_film(folder / f"{frames}.mp4", frames=frames).read_bytes() for frames in (4, 8)]


def read(path, limit=LIMIT):
    reader = open_source(str(path), options=ReadOptions(max_video_bytes=limit))
    video = VideoOptions(frames=2, root=ImageRoot(str(path.parent)), max_bytes=LIMIT)
    options = ParseOptions(video=video, image_root=str(path.parent))
    return [parse_row(raw, options) for part in reader.slices() for raw in reader.read(part)]


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def talk(text, **columns):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]
    return json.dumps({"texts": turns, **columns}).encode()


def test_members_of_a_tar_are_the_videos_of_their_row(films, tmp_path):
    """In natural order, beside an image; with a text alone; what is broken, and what has no row, is refused."""
    items = read(
        write_tar(
            tmp_path / "a.tar",
            {
                "0.10.mp4": films[1],
                "0.2.MP4": films[0],
                "0.json": talk("<video> and <video>?", media="video", name=["2.mp4", "10.mp4"]),
                "1.json": talk("<image><video>?", video="x.mp4"),
                "1.mkv": films[0],
                "1.png": encoded(),
                "2.mp4": films[0],
                "2.txt": b"A film.",
                "3.json": talk("<video>?"),
                "3.mp4": films[0][:500],
                "4.json": talk("<video>?"),
                "4.mp4": b"",
                "5.mp4": films[0],
            },
        )
    )
    first, second, third, *refused = items
    assert first.messages[0].text == f"{FRAMES} and {FRAMES}?"
    assert numbers_of([image.data for image in first.images]) == [1, 3, 2, 6]
    assert second.messages[0].text == f"<image>{FRAMES}?"
    assert second.images[0].data == encoded()
    assert (third.messages[0].text, third.messages[1].text) == (FRAMES, "A film.")
    assert [str(item.reason) for item in refused] == ["video_corrupt", "video_corrupt", "missing_conversations"]
    assert "videos" in refused[2].detail


def test_films_go_with_the_row_of_their_name_where_names_have_dots(films, tmp_path):
    """As images do."""
    members = {}
    for number, film in enumerate(films):
        members |= {f"c.{number}.mp4": film, f"c.{number}.json": talk(f"<video>{number}")}
    items = read(write_tar(tmp_path / "a.tar", members))
    assert [item.source_id for item in items] == ["c.0", "c.1"]
    assert [numbers_of([image.data for image in item.images]) for item in items] == [[1, 3], [2, 6]]


def test_the_videos_of_a_row_of_a_tar_are_bounded_together(films, tmp_path):
    """Before they are read; other rows of the archive are as they were."""
    members = {"0.json": talk("<video>?"), "0.mp4": films[0], "1.a.mp4": films[0], "1.b.mp4": films[0]}
    members |= {"1.json": talk("<video><video>?"), "2.json": talk("q")}
    first, second, third = read(write_tar(tmp_path / "a.tar", members), limit=2 * len(films[0]) - 1)
    assert len(first.images) == 2
    assert isinstance(second, Reject)
    assert (second.reason, "video_max_mb" in second.detail) == ("video_too_large", True)
    assert third.images == ()


BYTES_AND_PATH = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (BYTES_AND_PATH, lambda film: {"bytes": film, "path": "x.mp4"}),
        (pa.list_(BYTES_AND_PATH), lambda film: [{"bytes": film, "path": None}]),
        (pa.binary(), lambda film: film),
        (pa.list_(pa.large_binary()), lambda film: [film]),
    ],
)
def test_columns_of_bytes_are_videos(films, kind, value, tmp_path):
    """In Parquet, as structs of Hugging Face or bytes alone; a broken and an empty one are refused, none is text."""
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    shown = [films[0], films[0][:500], films[1]]
    talks = [[{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "a"}] for _ in shown]
    text = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    table = pa.table({"messages": pa.array([*talks, text], turns), "video": pa.array([*map(value, shown), None], kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    first, broken, third, alone = read(tmp_path / "a.parquet")
    assert numbers_of([image.data for image in first.images]) == [1, 3]
    assert broken.reason == "video_corrupt"
    assert numbers_of([image.data for image in third.images]) == [2, 6]
    assert alone.images == ()


def test_one_row_with_a_video_is_in_memory_at_a_time(tmp_path):
    """Of a table: eight rows of 4 MB are read in the memory of a few; each is too large and refused."""
    turns = [{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "a"}]
    film = bytes(4 * LIMIT)
    pq.write_table(
        pa.table({"messages": [turns] * 8, "video": [film] * 8}), tmp_path / "a.parquet", use_dictionary=False
    )
    tracemalloc.start()
    try:
        items = read(tmp_path / "a.parquet")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {str(item.reason) for item in items} == {"video_too_large"}
    assert most < 3 * len(film)
