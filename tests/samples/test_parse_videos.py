"""Rows with videos become rows with frames; rows that say something else are refused before a video is opened."""

from __future__ import annotations

import pytest

from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reject
from raycurate.samples.rows import RawRow
from raycurate.samples.schema import Sample
from raycurate.samples.videos import VideoOptions
from tests.films import numbers_of, write_film
from tests.hostile import encoded

pytest.importorskip("av")
FRAMES = "<image>\n<image>"
ANSWER = {"role": "assistant", "content": "a"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two videos of four frames, of which two are shown; numbers 1 and 3."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a.mp4", frames=4)
    write_film(folder / "deep" / "b.mp4", frames=4, size=(32, 64))
    return folder


def parsed(root, row, **settings):
    video = VideoOptions(frames=2, root=ImageRoot(str(root)))
    return parse_row(RawRow("f", 0, row), ParseOptions(video=video, image_root=str(root), **settings))


def talk(text, **columns):
    return {"messages": [{"role": "user", "content": text}, ANSWER], **columns}


def said(sample):
    assert isinstance(sample, Sample), sample
    return sample.messages[0].text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (talk("<video>\nWhy?", videos=["a.mp4"]), f"{FRAMES}\nWhy?"),
        (talk("<video>Why?", video="./a.mp4"), f"{FRAMES}Why?"),
        (talk("<image>\nWhy?", video="a.mp4"), f"{FRAMES}\nWhy?"),
        (talk("Why <video>?", videos=[{"bytes": None, "path": "a.mp4"}]), f"Why {FRAMES}?"),
        (talk([{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]), f"{FRAMES}\nWhy?"),
        (talk([{"type": "video_url", "video_url": {"url": "a.mp4"}}, "Why?"]), f"{FRAMES}\nWhy?"),
        (talk([{"type": "text", "text": "Why?"}, {"type": "video"}], videos="a.mp4"), f"Why?\n{FRAMES}"),
    ],
)
def test_a_video_is_its_frames_where_its_mark_stands(root, row, text):
    """In every spelling of columns, marks and blocks."""
    sample = parsed(root, row)
    assert said(sample) == text
    assert numbers_of([image.data for image in sample.images]) == [1, 3]


def test_bytes_are_read_as_the_file_is(root):
    """As Parquet files hold them: the same row, with the same key."""
    row = talk("<video>?", videos=[{"bytes": (root / "a.mp4").read_bytes(), "path": "x.mp4"}])
    assert parsed(root, row).key == parsed(root, talk("<video>?", videos=["a.mp4"])).key


def test_videos_and_images_stand_in_the_order_of_their_marks(root):
    """Two videos with an image between them, over two questions."""
    picture = encoded(size=(20, 20))
    turns = [{"role": "user", "content": "<video>\n<image> x"}, ANSWER, {"role": "user", "content": "<video>"}, ANSWER]
    sample = parsed(
        root, {"messages": turns, "videos": ["a.mp4", f"{root}/deep/b.mp4"], "images": [{"bytes": picture}]}
    )
    assert [message.text for message in sample.messages[::2]] == [f"{FRAMES}\n<image> x", FRAMES]
    first, second = (parsed(root, talk("<video>", video=name)).images for name in ("a.mp4", "deep/b.mp4"))
    assert [image.sha for image in sample.images] == [
        *(image.sha for image in first),
        sample.images[2].sha,
        *(image.sha for image in second),
    ]
    assert sample.images[2].data == picture


def test_a_mark_that_is_missing_is_put_first_where_that_is_asked_for(root):
    """As images' are; else the row is refused."""
    assert said(parsed(root, talk("Why?", video="a.mp4"), insert_missing_marks=True)) == f"{FRAMES}\nWhy?"
    refused = parsed(root, talk("Why?", video="a.mp4"))
    assert refused.reason == "image_mark_mismatch"
    assert "insert_missing_marks=true" in refused.detail


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("image_mark_mismatch", talk("<video>?", videos=["a.mp4", "a.mp4"])),
        ("wrong_type", talk("<video>?", videos=["a.mp4"], video="deep/b.mp4")),
        ("wrong_type", talk([{"type": "video", "video": "a.mp4"}, "Why?"], videos=["deep/b.mp4"])),
        ("image_mark_mismatch", talk("<image><image>?", video="a.mp4", image={"bytes": encoded()})),
        ("unsupported_video", talk("<video>?")),
        (
            "unsupported_video",
            talk("<video>?", videos=["a.mp4"])
            | {"messages": [ANSWER | {"role": "user"}, ANSWER | {"content": "<video>"}]},
        ),
        ("unsupported_audio", talk("<video>?", video="a.mp4", audio="a.wav")),
        ("too_many_images", talk("<video>" * 33, videos=["a.mp4"] * 33)),
        ("image_path_escape", talk("<video>?", video="../a.mp4")),
        ("image_remote", talk("<video>?", video="https://example.org/a.mp4")),
        ("image_path_escape", talk("<video>?", video="/etc/a.mp4")),
        ("video_missing", talk("<video>?", video="gone.mp4")),
        ("video_missing", talk([{"type": "video"}, "x"])),
        ("wrong_type", talk("<video>?", video=[7])),
    ],
)
def test_what_cannot_be_shown_is_refused(root, reason, row):
    """Marks that do not fit, other media, too many frames, paths that leave the root."""
    found = parsed(root, row)
    assert isinstance(found, Reject)
    assert found.reason == reason


def test_videos_are_refused_where_they_are_not_asked_for(root):
    """The default."""
    found = parse_row(RawRow("f", 0, talk("<video>?", video="a.mp4")), ParseOptions(image_root=str(root)))
    assert found.reason == "unsupported_video"
