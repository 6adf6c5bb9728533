"""Read LLaVA JSON (one array) and JSON Lines by byte ranges, with memory that does not grow with the file.

``slice_file`` passes once over the bytes (``split``) to find where rows begin; ``read`` seeks to its range, splits it
and parses each row by itself with the standard ``json``. So an array of any size is read by many tasks at once, and a
row that is not JSON or not UTF-8 is one refused row. What cannot be told apart is refused as one row and said so: an
array that is not closed (a file cut short), or text behind its end.
A compressed file cannot be read from its middle: it is one slice, which one task reads as a stream.
Cost: one extra sequential read of the file, at 0.13 GB/s (array) or 0.5 GB/s (lines).
"""

from __future__ import annotations

import bz2
import codecs
import functools
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raycurate.errors import UserError
from raycurate.samples.quarantine import Fault, Reason, excerpt_of
from raycurate.samples.rows import RawRow, ReadError, ReadOptions, Slice, SourceFile, all_slices
from raycurate.samples.sources import open_file
from raycurate.samples.split import (
    CHUNK_BYTES,
    ArrayFinder,
    Finder,
    NewlineFinder,
    plan,
    read_chunks,
    split_rows,
)

_HEAD_BYTES = 1 << 16
_SPACE = b" \t\r\n"
_WRONG_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

ARRAY, ARRAY_END, ARRAY_CUT, ARRAY_JUNK = "array", "array_end", "array_cut", "array_junk"
LINES, LINES_END = "lines", "lines_end"
PACKED = "packed"
"""The kind of a slice that is a whole compressed file; how it ends shows when it is read."""
ARRAY_DAMAGED, LINES_CUT = "array_damaged", "lines_cut"
"""Further ends of compressed files."""
_DAMAGED = Fault(Reason.CUT_OFF, "the compressed file is cut short or damaged here")
_ENDINGS = {
    ARRAY_CUT: Fault(Reason.CUT_OFF, "the array is not closed: the file is cut short here"),
    ARRAY_JUNK: Fault(Reason.INVALID_JSON, "there is text behind the end of the array; what follows is not read"),
    ARRAY_DAMAGED: _DAMAGED,
    LINES_CUT: _DAMAGED,
}
_ENDS_INSIDE = frozenset({ARRAY_CUT, LINES_END, LINES_CUT})
"""Ends in front of which a row that cannot be parsed is one that was cut."""
INSIDE_ROW = "the file ends inside this row: it is cut short"
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class JsonReader:
    """Files that hold either one array of rows or one row a line, each told by its first character."""

    files: tuple[SourceFile, ...]
    options: ReadOptions

    def slices(self) -> list[Slice]:
        """See ``Reader``."""
        return all_slices(self)

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """See ``Reader``; none for a file without rows. ``UserError`` for what is not JSON at all."""
        if _codec_of(file.name) is not None:
            return [Slice(PACKED, file.name, file.uri, 0, file.size, 0, None)] if file.size else []
        with open_file(file.uri) as stream:
            head = stream.read(_HEAD_BYTES)
            start = _text_start(head, file)
            text = head[start:].lstrip(_SPACE)
            while head and not text:
                head = stream.read(_HEAD_BYTES)
                text = head.lstrip(_SPACE)
            if not text:
                return []
            if text.startswith(b"["):
                bracket = stream.tell() - len(text)
                return self._slice_array(stream, file, bracket + 1)
            if not text.startswith(b"{") and file.name.endswith(".json"):
                raise UserError(f"{file.uri} is not a JSON array or JSON Lines: it begins with {text[:20]!r}")
            _refuse_wrapped_rows(text, file)
            slices = self._slices(stream, file, LINES, start, NewlineFinder())
            return [_with_kind(part, LINES_END) if part.stop == file.size else part for part in slices]

    def unread_columns(self, _file: SourceFile, /) -> list[str]:
        """See ``Reader``: none, each row has columns of its own."""
        return []

    def read(self, part: Slice) -> Iterator[RawRow]:
        """See ``Reader``."""
        with open_file(part.uri) as stream:
            if part.kind == PACKED:
                yield from self._read_packed(part, _Chunks(_unpacked(stream, part.file)))
                return
            finder: Finder = NewlineFinder() if part.kind in (LINES, LINES_END) else ArrayFinder()
            chunks = read_chunks(stream, part.start, part.stop, CHUNK_BYTES)
            yield from self._rows(part, chunks, finder, lambda: part.kind)

    def _rows(self, part: Slice, chunks: Iterable[bytes], finder: Finder, end: Callable[[], str]) -> Iterator[RawRow]:
        """The rows of a text, one behind: how the text ends tells what a last row is that cannot be parsed."""
        is_array = isinstance(finder, ArrayFinder)
        row, blank, held = part.first_row - 1, False, None
        rows = split_rows(chunks, finder, self.options.max_row_bytes)
        for row, data in enumerate(rows, part.first_row):
            if held is not None:
                yield held
                held = None
            if blank and is_array:
                yield RawRow(part.file, row - 1, _not_json("there is nothing between two commas", b""))
            blank = data is not None and not data.strip(_SPACE)
            if not blank:
                held = RawRow(part.file, row, self._parse(data))
        kind = end()
        is_cut = kind in _ENDS_INSIDE and held is not None and isinstance(held.value, ReadError)
        if held is not None:
            yield RawRow(part.file, row, _cut(held.value)) if is_cut else held
        if blank and kind == ARRAY:
            yield RawRow(part.file, row, _not_json("there is nothing between two commas", b""))
        if kind in _ENDINGS and not is_cut:
            yield RawRow(part.file, row if blank else row + 1, ReadError(_ENDINGS[kind]))

    def _read_packed(self, part: Slice, chunks: _Chunks) -> Iterator[RawRow]:
        """The rows of a compressed file, as a stream."""
        text = next((text for chunk in chunks if (text := _without_bom(chunk).lstrip(_SPACE))), b"")
        is_array = text.startswith(b"[")
        chunks.last = text[1:] if is_array else text
        finder = ArrayFinder() if is_array else NewlineFinder()

        def end() -> str:
            if not isinstance(finder, ArrayFinder):
                return LINES_CUT if chunks.is_broken else LINES_END
            if not finder.closed:
                return ARRAY_CUT
            behind = itertools.chain([chunks.last[finder.end + 1 :]], chunks)
            if any(chunk.strip(_SPACE) for chunk in behind):
                return ARRAY_JUNK
            return ARRAY_DAMAGED if chunks.is_broken else ARRAY_END

        yield from self._rows(part, itertools.chain([chunks.last], chunks), finder, end)

    def _parse(self, data: bytes | None) -> Any:
        if data is None:
            limit = self.options.max_row_bytes
            detail = f"the row is longer than {limit} bytes, or its brackets or quotes do not balance"
            return ReadError(Fault(Reason.OVERLONG, detail))
        return parse_json(data)

    def _slice_array(self, stream: Any, file: SourceFile, start: int) -> list[Slice]:
        finder = ArrayFinder()
        slices = self._slices(stream, file, ARRAY, start, finder)
        if not slices:
            return [Slice(ARRAY_CUT, file.name, file.uri, start, start, 0, 1)]
        last = slices[-1]
        kind = ARRAY_CUT
        if finder.closed:
            tail = read_chunks(stream, last.stop + 1, None)
            behind = next((text for chunk in tail if (text := chunk.strip(_SPACE))), b"")
            if behind.startswith(b"["):
                raise UserError(f"{file.uri} holds several arrays, one behind the other. Write the rows as one array.")
            kind = ARRAY_JUNK if behind else ARRAY_END
            stream.seek(start)
            if len(slices) == 1 and last.num_rows == 1 and not stream.read(last.stop - start).strip(_SPACE):
                slices = [] if kind == ARRAY_END else slices
        return [*slices[:-1], _with_kind(last, kind)] if slices else []

    def _slices(self, stream: Any, file: SourceFile, kind: str, start: int, finder: Finder) -> list[Slice]:
        cuts = plan(
            read_chunks(stream, start, None),
            finder,
            start=start,
            slice_rows=self.options.slice_rows,
            slice_bytes=self.options.slice_bytes,
        )
        return [Slice(kind, file.name, file.uri, c.start, c.stop, c.first_row, c.num_rows) for c in cuts]


class _Chunks:
    """The chunks of a compressed stream; it knows the last one, and whether the stream broke off behind it."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self.last = b""
        self.is_broken = False

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._next():
            self.last = chunk
            yield chunk

    def _next(self) -> bytes:
        try:
            return self._read()
        except (OSError, EOFError, zlib.error):
            self.is_broken = True
            return b""


def parse_json(data: bytes) -> Any:
    """One JSON value, or a ``ReadError`` that says why it is none."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        fault = Fault(Reason.INVALID_UTF8, f"byte {error.start} of the row is not UTF-8")
        return ReadError(fault, excerpt_of(data))
    except RecursionError:
        return _not_json("it is nested too deeply", data)
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        return _not_json(str(error), data)


def _not_json(detail: str, data: bytes) -> ReadError:
    return ReadError(Fault(Reason.INVALID_JSON, detail), excerpt_of(data))


def _cut(error: ReadError) -> ReadError:
    return ReadError(Fault(Reason.CUT_OFF, INSIDE_ROW), error.excerpt)


def _unpacked(stream: Any, name: str) -> Callable[[], bytes]:
    """What gives the next bytes of a compressed stream; all in front of a damage, but 64 KiB at most of Zstandard's."""
    codec = _codec_of(name)
    if codec == "gzip":
        return functools.partial(gzip.GzipFile(fileobj=stream).read1, CHUNK_BYTES)
    if codec == "bz2":
        return functools.partial(bz2.BZ2File(stream).read1, CHUNK_BYTES)
    return functools.partial(pa.CompressedInputStream(stream, codec).read, 1 << 16)


def _without_bom(head: bytes) -> bytes:
    return head.removeprefix(codecs.BOM_UTF8)


def _codec_of(name: str) -> str | None:
    """The compression that a file's name tells."""
    return next((codec for suffix, codec in CODECS.items() if name.lower().endswith(suffix)), None)


def _with_kind(part: Slice, kind: str) -> Slice:
    return Slice(kind, part.file, part.uri, part.start, part.stop, part.first_row, part.num_rows)


def _text_start(head: bytes, file: SourceFile) -> int:
    """Where the text begins behind a UTF-8 byte-order mark."""
    if head.startswith(_WRONG_BOMS):
        raise UserError(f"{file.uri} is UTF-16 or UTF-32; convert it to UTF-8 first (iconv -t UTF-8)")
    return len(head) - len(_without_bom(head))


def _refuse_wrapped_rows(text: bytes, file: SourceFile) -> None:
    """Raise for a pretty-printed object in a ``.json`` file: the rows are inside it, under some name."""
    first_line = text.split(b"\n", 1)[0].strip()
    if file.name.endswith(".json") and first_line == b"{":
        raise UserError(
            f"{file.uri} holds one JSON object over several lines, not rows. Write the rows as one array [...] or as "
            "JSON Lines (one object a line)."
        )
