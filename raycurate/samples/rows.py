"""What a reader gives: slices of a source, and the raw rows of one slice.

A slice is a small description of a run of rows (a byte range, a run of row groups, a tar file) that any process can
read by itself. The list of slices depends on the source and the options only, never on who reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from raycurate.errors import UserError
from raycurate.samples.quarantine import Fault


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: ``name`` is its path below the source (what rows report), ``uri`` opens it."""

    name: str
    uri: str
    size: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of rows of one file. ``start`` and ``stop`` are bytes, row groups or nothing, as ``kind`` says."""

    kind: str
    file: str
    uri: str
    start: int
    stop: int
    first_row: int
    num_rows: int | None
    """Rows that the slice holds; an upper bound for JSON Lines (blank lines), None where only reading tells."""


@dataclass(frozen=True, slots=True)
class ReadError:
    """A row that could not be read at all, with as much of it as could."""

    fault: Fault
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of the source: any parsed value, or the reason why there is none."""

    source_file: str
    source_row: int
    value: Any | ReadError
    root: str = ""
    """The folder in front of its paths of images and videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a source is cut and read."""

    slice_rows: int = 10_000
    slice_bytes: int = 64 << 20
    """A slice ends at ``slice_rows`` rows or ``slice_bytes`` bytes, whichever comes first."""
    max_row_bytes: int = 32 << 20
    """A longer JSON row is refused without being held in memory."""
    max_image_bytes: int = 64 << 20
    """A longer member of a tar shard is refused without being held in memory."""
    max_video_bytes: int | None = None
    """Of the videos of a row of a tar shard, together; None: videos are not read."""
    split: str | None = None
    """Which split of a Hugging Face ``DatasetDict``."""
    columns: tuple[str, ...] = ()
    """Further columns of tables to read."""
    any_table: bool = False
    """Tables need no column of turns: the user says how they become turns."""
    every_column: bool = False
    """All columns of tables are read: a function of the user takes them."""

    def __post_init__(self) -> None:
        for name in ("slice_rows", "slice_bytes", "max_row_bytes", "max_image_bytes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Reader(Protocol):
    """A source of rows. Readers are small and picklable: a task may hold one."""

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files of the source, sorted by name."""
        ...

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """The slices of one file; files may be cut in parallel."""
        ...

    def slices(self) -> list[Slice]:
        """The slices of the whole source, in order; a ``UserError`` where there is no row at all."""
        ...

    def unread_columns(self, file: SourceFile, /) -> list[str]:
        """The columns of a file that are not read, where the file has columns; none where its rows have them."""
        ...

    def read(self, part: Slice) -> Iterator[RawRow]:
        """The rows of one slice, streaming, in order."""
        ...


def all_slices(reader: Reader) -> list[Slice]:
    """``Reader.slices`` from ``Reader.slice_file``."""
    slices = [part for file in reader.files for part in reader.slice_file(file)]
    if not slices:
        names = ", ".join(file.uri for file in reader.files[:3])
        raise UserError(f"the source holds no rows: {names} ({len(reader.files)} file(s)). Check the path.")
    return slices
