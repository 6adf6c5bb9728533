"""Frames of a video, as the images that a row shows in its place.

    t_i = start + duration (i + 1/2) / n,  i = 0 .. n - 1;  frame i = the last one that begins at or before t_i

are n frames at equal distances in time. A frame that is the last one before several t_i is taken once, so a video of
few frames gives fewer than n. Frames are turned upright as the file says, made smaller where a side is longer than
`max_side`, as each row holds all its frames, and stored as JPEG (quality 90).

The decoder (PyAV, FFmpeg inside) jumps to the key frame in front of t_i where that is further than it has to decode
anyway: an hour costs about n groups of pictures. It runs on one thread, and the same file gives the same bytes in any
process; other releases of FFmpeg or Pillow may give others, and with them other keys of rows. A film of two seconds of
64 x 64 takes 5 ms, eight frames of one hour 40 ms (`jobs/RESULTS.md`).

Bounds: bytes and seconds of the file, pixels of a frame, frames decoded for one that is kept (`MAX_DECODED`). Only
container formats that hold their streams themselves are opened (`CONTAINERS`): a playlist could name any other file.
Whatever cannot be opened, ends early or breaks off is a fault. Not read: sound, subtitles, the pictures on an audio
file. What kills a process inside of FFmpeg is not caught.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
from PIL import Image

from raycurate.errors import UserError
from raycurate.run.filesystem import resolve
from raycurate.samples.images import ImageRoot
from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import ImageRef

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"
MAX_BYTES = 1024 << 20
MAX_DECODED = 3000
"""Frames between a key frame and the one that is wanted: two minutes without a key frame."""
QUALITY = 90
_JUMP_SECONDS = 5.0
"""Frames that are nearer are decoded up to: key frames are seldom closer together."""
_ATTACHED = 0x400
"""FFmpeg's flag of a stream that is a picture on a file, such as the cover of a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How videos are read.

    Attributes:
        frames: most frames of one.
        root: where the paths count from.
        max_bytes: of a file.
        max_seconds: of a file's duration.
        max_pixels: of a frame.
        max_side: of a frame that is kept, in pixels; a larger one is made smaller in its proportions.
    """

    frames: int
    root: ImageRoot
    max_bytes: int = MAX_BYTES
    max_seconds: float = 7200.0
    max_pixels: int = 50_000_000
    max_side: int = 768


def need_decoder() -> Any:
    """The module `av`. Raises `UserError` where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"video_frames needs PyAV ({error}); install it with: pip install 'raycurate[video]', or leave "
            "video_frames out: rows with a video then go to the quarantine"
        ) from None
    return av


def frames_of(video: str | bytes, options: VideoOptions) -> tuple[ImageRef, ...]:
    """The frames of a video in their order, as images with their bytes.

    Args:
        video: a path below the root, or the file's content.
        options: how many, and the bounds.

    Raises:
        FaultError: a video that is not there, too large, or cannot be decoded.
    """
    if isinstance(video, bytes):
        _check_size(len(video), options)
        return _decoded(io.BytesIO(video), options)
    if options.root.root is None:
        raise FaultError(Reason.VIDEO_MISSING, f"the row names the video {video!r}, but no root was given (--images)")
    filesystem, path = options.root.locate(video)
    info = filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        detail = f"there is no video {video!r} below the root {options.root.root} (--images)"
        raise FaultError(Reason.VIDEO_MISSING, detail)
    _check_size(info.size, options)
    return _of_file(path, info.size, info.mtime_ns, options)


@functools.lru_cache(maxsize=4)
def _of_file(path: str, size: int, time: int | None, options: VideoOptions) -> tuple[ImageRef, ...]:
    """The frames of a file. Rows that ask about one video most often stand together, so the last ones are kept."""
    del size, time  # a file that has changed is another one
    filesystem, _ = resolve(options.root.root or "")
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _decoded(path, options)
    with filesystem.open_input_file(path) as stream:
        return _decoded(stream, options)


def _decoded(file: Any, options: VideoOptions) -> tuple[ImageRef, ...]:
    av = need_decoder()
    try:
        with av.open(file, container_options={"format_whitelist": CONTAINERS}, metadata_errors="replace") as container:
            return tuple(_encoded(frame, options) for frame in _chosen(container, options))
    except FaultError:
        raise
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        text = f"the video cannot be decoded: {type(error).__name__}: {error}"
        raise FaultError(Reason.VIDEO_CORRUPT, text) from None


def _chosen(container: Any, options: VideoOptions) -> Iterator[Any]:
    """The frames at the wanted times, each once."""
    stream = next((each for each in container.streams.video if not int(each.disposition) & _ATTACHED), None)
    if stream is None:
        raise FaultError(Reason.VIDEO_CORRUPT, "the file holds no video stream")
    stream.codec_context.thread_count = 1
    _check_pixels(stream.width * stream.height, options)
    start, seconds = _span(container, stream)
    if seconds > options.max_seconds:
        detail = (
            f"the video lasts {seconds:.0f} seconds; at most {options.max_seconds:g} are accepted (video_max_seconds)"
        )
        raise FaultError(Reason.VIDEO_TOO_LARGE, detail)
    reader, last = _Reader(container, stream, start), None
    for number in range(options.frames):
        frame = reader.frame_at(start + seconds * (number + 0.5) / options.frames, seconds / options.frames)
        if last is None or frame.pts != last:
            last = frame.pts
            yield frame


class _Reader:
    """Decodes a stream forwards, and jumps ahead where that saves work."""

    def __init__(self, container: Any, stream: Any, start: float) -> None:
        self._container, self._stream, self._start = container, stream, start
        self._frames = self._from_here()
        self._now: Any = None
        """The frame on the screen; None before the first one."""
        self._next: Any = next(self._frames, None)
        """The one behind it; None at the end."""
        if self._next is None:
            raise FaultError(Reason.VIDEO_CORRUPT, "the file holds no frame")

    def frame_at(self, time: float, distance: float) -> Any:
        """The frame on the screen at a time in seconds, later than that of the last call.

        Args:
            time: of the file.
            distance: seconds between two calls; a stream that ends that much earlier has lost its end.
        """
        if self._next is not None and time - self._next.time > _JUMP_SECONDS:
            self._jump(time)
        for _ in range(MAX_DECODED):
            if self._next is None or self._next.time > time:
                break
            self._now, self._next = self._next, next(self._frames, None)
        else:
            detail = f"no key frame within {MAX_DECODED} frames before {time:.1f} seconds"
            raise FaultError(Reason.VIDEO_CORRUPT, detail)
        if self._now is None:  # the first frame comes later than its stream
            return self._next
        if self._next is None:
            end = self._now.time + (self._now.duration or 0) * float(self._stream.time_base)
            if time - end > max(1.0, distance):
                detail = f"the frames end at {end:.1f} seconds, before {time:.1f}: the file has lost its end"
                raise FaultError(Reason.VIDEO_CORRUPT, detail)
        return self._now

    def _jump(self, time: float) -> None:
        """Go to a key frame at or before a time; where a format has no index, from further and further back."""
        for back in (0.0, 10.0, 60.0, time):
            self._container.seek(int(max(time - back, self._start) / self._stream.time_base), stream=self._stream)
            self._frames = self._from_here()
            self._now, self._next = None, next(self._frames, None)
            if self._next is not None and self._next.time <= time:
                return

    def _from_here(self) -> Iterator[Any]:
        return (frame for frame in self._container.decode(self._stream) if frame.pts is not None)


def _span(container: Any, stream: Any) -> tuple[float, float]:
    """Where the video begins, and how long it lasts, in seconds; read through where the file does not say."""
    base = float(stream.time_base)
    start = (stream.start_time or 0) * base
    if stream.duration:
        return start, stream.duration * base
    if container.duration:
        return start, container.duration / 1e6
    ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    container.seek(0)
    return start, max([each * base - start for each in ends], default=0.0)


def _encoded(frame: Any, options: VideoOptions) -> ImageRef:
    """A frame as a JPEG, upright."""
    _check_pixels(frame.width * frame.height, options)
    image: Image.Image = frame.to_image()
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    image.thumbnail((options.max_side, options.max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    data = out.getvalue()
    return ImageRef(data=data, sha=hashlib.sha256(data).hexdigest())


def _check_size(size: int, options: VideoOptions) -> None:
    if size == 0:
        raise FaultError(Reason.VIDEO_CORRUPT, "the video file is empty")
    if size > options.max_bytes:
        limit = options.max_bytes >> 20
        detail = f"the video has {size} bytes; at most {limit} MB are accepted (video_max_mb)"
        raise FaultError(Reason.VIDEO_TOO_LARGE, detail)


def _check_pixels(pixels: int, options: VideoOptions) -> None:
    if pixels > options.max_pixels:
        detail = f"a frame has {pixels} pixels; at most {options.max_pixels} are accepted (max_pixels)"
        raise FaultError(Reason.VIDEO_TOO_LARGE, detail)
