"""Frames of videos are those of their times; what cannot be read is a fault; cost does not grow with length."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from raycurate.errors import UserError
from raycurate.samples import videos
from raycurate.samples.images import ImageRoot
from raycurate.samples.quarantine import FaultError
from raycurate.samples.videos import VideoOptions, frames_of
from tests.films import numbers_of, write_film, write_sound

av = pytest.importorskip("av")


def options(tmp_path, frames=4, **bounds):
    return VideoOptions(frames=frames, root=ImageRoot(str(tmp_path)), **bounds)


def numbers(video, given):
    return numbers_of([ref.data for ref in frames_of(video, given)])


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "mpeg2video")]
)
def test_frames_stand_at_equal_distances_in_time(name, codec, tmp_path):
    """The middles of four quarters of 20 frames lie within frames 2, 7, 12 and 17."""
    write_film(tmp_path / name, codec=codec, fps=25, frames=20)
    assert numbers(name, options(tmp_path)) == [2, 7, 12, 17]


def test_a_path_and_its_bytes_are_the_same_images(tmp_path):
    """With the same hashes, whoever asks and how often."""
    path = write_film(tmp_path / "a.mp4")
    videos._of_file.cache_clear()
    first = frames_of("a.mp4", options(tmp_path))
    videos._of_file.cache_clear()
    assert frames_of("a.mp4", options(tmp_path)) == first == frames_of(path.read_bytes(), options(tmp_path))
    assert [Image.open(io.BytesIO(ref.data)).size for ref in first] == [(64, 48)] * 4


def test_frames_are_turned_as_the_file_says(tmp_path):
    """A telephone held upright stores its films lying, with a quarter turn clockwise in the header of the track."""
    path = write_film(tmp_path / "a.mp4", frames=2, lit=True)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 44
    shown = frames_of(data[:at] + quarter + data[at + 36 :], options(tmp_path, 1))
    picture = Image.open(io.BytesIO(shown[0].data)).convert("L")
    assert picture.size == (48, 64)
    assert picture.getpixel((44, 32)) > 200 > 50 > picture.getpixel((4, 32))


def test_large_frames_are_made_smaller_in_their_proportions(tmp_path):
    """Up to the longest side; smaller ones stay."""
    write_film(tmp_path / "a.mp4", frames=2, size=(96, 48))
    for side, size in ((32, (32, 16)), (768, (96, 48))):
        shown = frames_of("a.mp4", options(tmp_path, 1, max_side=side))
        assert Image.open(io.BytesIO(shown[0].data)).size == size


def test_a_file_that_changed_is_read_again(tmp_path):
    """Though the frames of the last files are kept."""
    write_film(tmp_path / "a.mp4", frames=4)
    before = frames_of("a.mp4", options(tmp_path))
    write_film(tmp_path / "a.mp4", frames=20)
    assert frames_of("a.mp4", options(tmp_path)) != before


def test_a_video_of_few_frames_gives_each_once(tmp_path):
    """Three frames for eight that are asked for."""
    write_film(tmp_path / "a.mp4", frames=3)
    assert numbers("a.mp4", options(tmp_path, 8)) == [0, 1, 2]


@pytest.mark.parametrize("name", ["long.mp4", "long.ts"])
def test_a_long_video_costs_its_frames(name, tmp_path, monkeypatch):
    """Of 4,000 frames fewer than 600 are decoded for eight, and they are the same as without a jump."""
    write_film(tmp_path / name, frames=4000, fps=5, group=20, size=(32, 32), codec="mpeg2video")
    decoded, inner = [], videos._Reader._from_here
    monkeypatch.setattr(
        videos._Reader, "_from_here", lambda self: (decoded.append(0) or frame for frame in inner(self))
    )
    jumped = frames_of(name, options(tmp_path, 8))
    assert len(decoded) < 600
    monkeypatch.setattr(videos, "_JUMP_SECONDS", float("inf"))
    videos._of_file.cache_clear()
    assert frames_of(name, options(tmp_path, 8)) == jumped
    assert len(decoded) > 3500


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("gone.mp4", "video_missing", "no video 'gone.mp4'"),
        ("folder", "video_missing", "no video"),
        ("empty.mp4", "video_corrupt", "empty"),
        ("text.mp4", "video_corrupt", "cannot be decoded"),
        ("list.m3u8", "video_corrupt", "cannot be decoded"),
        ("sound.m4a", "video_corrupt", "no video stream"),
        ("cut.mp4", "video_corrupt", "cannot be decoded"),
        ("cut.mkv", "video_corrupt", "lost its end|cannot be decoded"),
        ("link.mp4", "image_path_escape", "out of the root"),
    ],
)
def test_what_cannot_be_read_has_a_reason(name, reason, detail, tmp_path):
    """A file that is not there, is no video, has no picture, has lost its end, or lies elsewhere."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("no film")
    whole = write_film(tmp_path / "whole.mkv", frames=120)
    (root / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{whole}\n#EXT-X-ENDLIST\n")
    write_sound(root / "sound.m4a")
    (root / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    other = write_film(tmp_path / "whole.mp4", frames=120)
    (root / "cut.mp4").write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    (root / "link.mp4").symlink_to(other)
    with pytest.raises(FaultError, match=detail) as caught:
        frames_of(name, options(root))
    assert caught.value.fault.reason == reason


@pytest.mark.parametrize(
    ("bound", "detail"),
    [
        ({"max_bytes": 100}, "video_max_mb"),
        ({"max_seconds": 1.5}, "lasts 2 seconds; at most 1.5 are accepted .video_max_seconds"),
        ({"max_pixels": 1000}, "3072 pixels"),
    ],
)
def test_what_is_too_large_says_the_bound(bound, detail, tmp_path):
    """Bytes, seconds, pixels of a frame."""
    write_film(tmp_path / "a.mp4")
    with pytest.raises(FaultError, match=detail) as caught:
        frames_of("a.mp4", options(tmp_path, **bound))
    assert caught.value.fault.reason == "video_too_large"


def test_a_video_without_key_frames_is_bounded(tmp_path, monkeypatch):
    """Frames that are decoded for one that is wanted."""
    write_film(tmp_path / "a.mp4", frames=30, group=1000)
    monkeypatch.setattr(videos, "MAX_DECODED", 3)
    with pytest.raises(FaultError, match="no key frame within 3 frames"):
        frames_of("a.mp4", options(tmp_path, 1))


def test_a_missing_decoder_is_one_message(monkeypatch):
    """With what installs it."""
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'raycurate\[video\]'"):
        videos.need_decoder()
