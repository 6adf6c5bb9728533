"""Read WebDataset shards: tar files whose members share a base name, ``000.json`` beside ``000.jpg``.

The key of a member is its path up to the first dot of the file name; neighbours with one key are one row. Where a key
would have two ``.json`` members the dots belong to the names (``conv.0001.json``): from there on the key is the path up
to the last dot, so that no row is lost. The ``.json`` member is the row, or its list of turns; image members become
its images as bytes, in the order in which the row names them, else by what stands in front of the extension
(``000.0.jpg``, ``000.1.jpg``), and so do videos where they are read; else one refuses its row. Images that a row names
without any such member are paths below the image root. Without a ``.json`` a ``.txt`` member is what is said of the
images or videos (Energon's captions). Other members are counted as not read. Nothing is unpacked to disk, so names in
the archive cannot escape; links and devices are refused. The archive is read as a stream, compressed or not: one row in
memory, one slice per tar.
"""

from __future__ import annotations

import codecs
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from raycurate.errors import UserError
from raycurate.samples.parse_images import reference_in
from raycurate.samples.parse_turns import IMAGE_BLOCKS, block_type
from raycurate.samples.parse_videos import VIDEO_BLOCKS
from raycurate.samples.quarantine import Fault, Reason
from raycurate.samples.read_json import parse_json
from raycurate.samples.rows import RawRow, ReadError, ReadOptions, Slice, SourceFile, all_slices
from raycurate.samples.sources import open_file
from raycurate.samples.tables import TURN_FIELDS
from raycurate.samples.unsupported import AUDIO, MEDIA, SUFFIXES, VIDEO, is_nothing

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img", "image"})
TAR = "tar"


class _Member(tarfile.TarInfo):
    """A member's header; a missing or broken one is an error, where ``tarfile`` takes it for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        """The next header. Raises ``tarfile.ReadError`` for anything but a header or the end mark."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class WebDatasetReader:
    """Tar shards."""

    files: tuple[SourceFile, ...]
    options: ReadOptions

    def slices(self) -> list[Slice]:
        """See ``Reader``."""
        return all_slices(self)

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """See ``Reader``: one slice, none for an archive without files. ``UserError`` for what is no tar file."""
        with open_file(file.uri) as stream:
            try:
                with _open_tar(stream) as archive:
                    has_members = any(not member.isdir() for member in archive)
            except (tarfile.TarError, OSError, EOFError) as error:
                raise UserError(f"{file.uri} is not a readable tar file: {error}") from None
        return [Slice(TAR, file.name, file.uri, 0, file.size, 0, None)] if has_members else []

    def unread_columns(self, _file: SourceFile, /) -> list[str]:
        """See ``Reader``: none, each row has columns of its own."""
        return []

    def read(self, part: Slice) -> Iterator[RawRow]:
        """See ``Reader``. A damaged archive gives the rows before the damage and one refused row."""
        group, row, by_stem = _Group(""), 0, False
        try:
            with open_file(part.uri) as stream, _open_tar(stream) as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    key, extension = _split_name(member.name, by_stem=by_stem)
                    finished = group
                    if key != group.key:
                        group = _Group(key)
                    elif group.has_json_beside(extension):
                        by_stem = by_stem or bool(_stem_of(extension))
                        group = group.split(extension)
                    if finished is not group and not finished.is_empty:
                        yield RawRow(part.file, row, finished.value())
                        row += 1
                    group.add(member, extension, archive, self.options)
        except (tarfile.TarError, OSError, EOFError) as error:
            detail = f"the tar file ends inside a row or is damaged from here on: {error}"
            yield RawRow(part.file, row, ReadError(Fault(Reason.CUT_OFF, detail), group.key))
            return
        if not group.is_empty:
            yield RawRow(part.file, row, group.value())


@dataclass(slots=True)
class _Group:
    """The members of one row, as far as they were read."""

    key: str
    text: bytes | None = None
    text_stem: str = ""
    caption: bytes | None = None
    images: list[tuple[str, bytes]] = field(default_factory=list)
    videos: list[tuple[str, bytes]] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    """Extension -> name of the members that no rule reads."""
    fault: Fault | None = None
    is_empty: bool = True
    media_first: tuple[int, int] = (0, 0)
    """How many images and videos stand in front of the ``.json``."""

    def has_json_beside(self, extension: str) -> bool:
        """Whether a further ``.json`` is another row: of the same name, or of another where none is the plain one."""
        stem = _stem_of(extension)
        is_json = extension.lower().rpartition(".")[2] == "json"
        return is_json and self.text is not None and (stem == self.text_stem or bool(stem and self.text_stem))

    def split(self, extension: str) -> _Group:
        """The group of the row that begins with this ``.json``; media of its stem, which came before, go with it.

        Rows of one name are told apart by their order: where the media stand in front of the first row, so do those of
        the next.
        """
        stem = _stem_of(extension)
        if not stem:
            images, videos = self.media_first
            if not images and not videos:
                return _Group(self.key)
            same = _Group(self.key, images=self.images[images:], videos=self.videos[videos:], is_empty=False)
            del self.images[images:], self.videos[videos:]
            return same
        named = _Group(f"{self.key}.{stem}", is_empty=False)
        for kind in ("images", "videos"):
            before = getattr(self, kind)
            setattr(self, kind, [])
            for name, data in before:
                owner = named if name == stem or name.startswith(f"{stem}.") else self
                getattr(owner, kind).append((name, data))
        self.key = f"{self.key}.{self.text_stem}"
        return named

    def add(self, member: tarfile.TarInfo, extension: str, archive: tarfile.TarFile, options: ReadOptions) -> None:
        """Take one member; the first fault of a row is kept."""
        self.is_empty = False
        stem, kind = _stem_of(extension), extension.lower().rpartition(".")[2]
        if not member.isfile():
            self.fault = self.fault or Fault(Reason.IMAGE_PATH_ESCAPE, f"{member.name} is a link or a device")
            return
        if kind == "txt" and self.caption is None and member.size <= options.max_row_bytes:
            opened = archive.extractfile(member)
            self.caption = opened.read() if opened else b""
        if options.max_video_bytes is not None and SUFFIXES.get(f".{kind}") is VIDEO:
            self._add_video(member, stem, archive, options.max_video_bytes)
            return
        if kind not in ("json", *IMAGE_EXTENSIONS) or (kind == "json" and stem and self.text is not None):
            self.others[f".{kind}" if kind else "no extension"] = member.name
            return
        limit = options.max_row_bytes if kind == "json" else options.max_image_bytes
        if member.size > limit:
            reason = Reason.OVERLONG if kind == "json" else Reason.IMAGE_TOO_LARGE
            detail = f"{member.name} has {member.size} bytes; at most {limit} are accepted"
            self.fault = self.fault or Fault(reason, detail)
            return
        opened = archive.extractfile(member)
        data = opened.read() if opened else b""
        if kind == "json":
            if self.text is not None:
                self.others[".json"] = f"{self.key}.{self.text_stem}.json"
            self.text, self.text_stem = data, stem
            self.media_first = len(self.images), len(self.videos)
        else:
            self.images.append((stem, data))

    def _add_video(self, member: tarfile.TarInfo, stem: str, archive: tarfile.TarFile, limit: int) -> None:
        """A row is in memory with its videos, so the bound is of them together."""
        if not member.size:
            self.fault = self.fault or Fault(Reason.VIDEO_CORRUPT, f"{member.name} is empty")
            return
        size = member.size + sum(len(data) for _, data in self.videos)
        if size > limit:
            detail = f"{member.name} and the row's videos before it have {size} bytes; at most {limit} are accepted"
            self.fault = self.fault or Fault(Reason.VIDEO_TOO_LARGE, f"{detail} (video_max_mb)")
            return
        opened = archive.extractfile(member)
        self.videos.append((stem, opened.read() if opened else b""))

    def value(self) -> Any:
        """The row: the JSON object with images and videos as bytes in place of its own references."""
        if self.fault:
            return ReadError(self.fault, self.key)
        if self.text is None and self.caption is not None and (self.images or self.videos):
            return self._captioned(self.caption)
        if self.text is None:
            media = [name for name in ("images", "videos") if getattr(self, name)]
            there = [*media, *sorted(self.others)]
            detail = (
                f"{self.key} has no .json member beside its {', '.join(there) or 'others'}. The members of a row have "
                "to be neighbours in the archive (tar --sort=name) that share the name up to the first dot"
            )
            return ReadError(Fault(Reason.MISSING_CONVERSATIONS, detail), self.key)
        value = parse_json(self.text.removeprefix(codecs.BOM_UTF8))
        if isinstance(value, list):  # a bare list of turns
            value = {"messages": value}
        if not isinstance(value, dict):
            return value
        told = value.get("name") if isinstance(value.get("name"), list) else None  # of LLaVA-OneVision-1.5
        named = value.get("images") or value.get("image")
        something = [each for each in named if not is_nothing(each)] if isinstance(named, list) else []
        if self.images and len(something) > len(self.images):
            detail = f"the row names {len(something)} images, beside {self.key}.json are {len(self.images)}"
            return ReadError(Fault(Reason.IMAGE_MISSING, detail), self.key)
        own, replaced = self._left_out(), set()
        if self.images or is_nothing(named):
            own["images"] = _in_order(self.images, named or told or _in_blocks(value, IMAGE_BLOCKS), self.key)
            replaced |= {"image", "images"}
        if self.videos:
            films = value.get("videos") or value.get("video") or told or _in_blocks(value, VIDEO_BLOCKS)
            own["videos"] = _in_order(self.videos, films, self.key)
            replaced |= {"video", "videos"}
        inner = {name: item for name, item in value.items() if name not in replaced}
        return {"id": self.key, **inner, **own}

    def _captioned(self, caption: bytes) -> Any:
        """Images or videos and a text: the text is what is said of them."""
        try:
            text = caption.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            return ReadError(Fault(Reason.INVALID_UTF8, f"byte {error.start} of the text is not UTF-8"), self.key)
        self.others.pop(".txt", None)
        shown = [{"type": "image"} for _ in self.images] + [{"type": "video"} for _ in self.videos]
        turns = [{"role": "user", "content": shown}, {"role": "assistant", "content": text}]
        media = {"images": _in_order(self.images, None, ""), "videos": _in_order(self.videos, None, "")}
        return {"id": self.key, "messages": turns, **self._left_out(), **media}

    def _left_out(self) -> dict[str, Any]:
        """The members that no rule reads, as columns of the row: a video is refused as one, others are counted."""
        media = {reason: name for reason, name in ((VIDEO, "video"), (AUDIO, "audio"), (MEDIA, "pdf"))}
        found: dict[str, Any] = {}
        for extension, name in self.others.items():
            column = media.get(SUFFIXES[extension]) if extension in SUFFIXES else None
            found[column or f"{extension} members"] = {"member": name} if column == "video" else name
        return found


def _in_blocks(value: Mapping[str, Any], kinds: Sequence[str]) -> list[Any]:
    """What the content blocks of a row's turns show, in their order."""
    turns: list[Any] = next((value[name] for name in TURN_FIELDS if isinstance(value.get(name), list)), [])
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return [reference_in(block) for block in blocks if block_type(block) in kinds]


def _in_order(members: list[tuple[str, bytes]], references: Any, key: str) -> list[dict[str, Any]]:
    """Media as the row's references name them, else by the natural order of their names; with as many references."""
    ordered = sorted(members, key=lambda member: _natural(member[0]))
    paths = references if isinstance(references, list) else [references]
    hints = [reference_in(path) for path in paths] if len(paths) == len(ordered) else [None] * len(ordered)
    files = [hint.rpartition("/")[2].rpartition(".")[0] for hint in hints if isinstance(hint, str)]
    names = [file.removeprefix(f"{key.rpartition('/')[2]}.").lower() for file in files]
    by_name = dict(members)
    if len(by_name) == len(members) and sorted(names) == sorted(by_name):
        ordered = [(name, by_name[name]) for name in names]
    return [{"bytes": data, "path": hint} for (_, data), hint in zip(ordered, hints, strict=True)]


def _open_tar(stream: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|*", tarinfo=_Member)


def _split_name(name: str, *, by_stem: bool) -> tuple[str, str]:
    """A member's key and extension: ``a/b.0.jpg`` -> ``a/b``, ``0.jpg``; by its stem ``a/b.0``, ``jpg``."""
    folder, slash, base = name.rpartition("/")
    if by_stem:
        stem, _, extension = base.rpartition(".")
    else:
        stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _stem_of(extension: str) -> str:
    """What stands in front of the last dot of an extension, in lower case."""
    return extension.lower().rpartition(".")[0]


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key in which ``img2`` stands before ``img10``."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", name))
