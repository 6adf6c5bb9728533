"""Several sources as one: each with its own reader, task and share, told apart by the first part of a row's file.

    name/path of the file below the source  <- `source_file` of every row

Shares are of the rows that can be read. With weights w_i the mixture has the most rows T for which no source has to
give more than it has: T w_i / sum(w) <= n_i, where n_i is its rows, or its cap. Which rows these are is a draw by the
hash of their contents: the smallest ones stay. So it is the same draw for any workers, files and order of rows, and a
larger cap only adds rows. Of exact copies as many stay as there is room for.

Cost: 8 bytes a row of the sources that have a weight or a cap, on the driver.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import SourceConfig
from raycurate.errors import UserError
from raycurate.samples.quarantine import FaultError
from raycurate.samples.read_indexed import IndexedReader
from raycurate.samples.rows import RawRow, Reader, ReadError, Slice, SourceFile, all_slices
from raycurate.samples.schema import HASH_CHARS
from raycurate.samples.tables import as_turns


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a mixture.

    Attributes:
        name: that its rows are counted under.
        reader: of its files, whose names begin with that name.
        task: of all its rows; None: as the rows say it.
        root: folder in front of its image paths.
        columns: field -> column of a table.
    """

    name: str
    reader: Reader
    task: str | None = None
    root: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def row(self, value: Any, task_column: str) -> Any:
        """A row with this source's own settings applied. Raises `FaultError`."""
        if not isinstance(value, Mapping):
            return value
        row = dict(as_turns(value, self.columns)[0]) if self.columns else dict(value)
        return row if self.task is None else {**row, task_column: self.task}


@dataclass(frozen=True, slots=True)
class MixtureReader:
    """The files of all sources, each with its own reader."""

    parts: tuple[Part, ...]
    task_column: str

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """See ``Reader``."""
        return tuple(sorted((file for part in self.parts for file in part.reader.files), key=lambda file: file.name))

    @property
    def facts(self) -> list[Any]:
        """What rows are made of by the indexes of sources, where these have one."""
        return [part.reader.facts for part in self.parts if isinstance(part.reader, IndexedReader)]

    def slices(self) -> list[Slice]:
        """See ``Reader``."""
        return all_slices(self)

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """See ``Reader``."""
        return self._of(file.name).reader.slice_file(file)

    def unread_columns(self, file: SourceFile, /) -> list[str]:
        """See ``Reader``."""
        return self._of(file.name).reader.unread_columns(file)

    def read(self, part: Slice) -> Iterator[RawRow]:
        """See ``Reader``."""
        source = self._of(part.file)
        for raw in source.reader.read(part):
            try:
                if not isinstance(raw.value, ReadError):
                    value = source.row(raw.value, self.task_column)
                    raw = replace(raw, value=value, root="/".join(filter(None, (source.root, raw.root))))
                yield raw
            except FaultError as error:
                yield replace(raw, value=ReadError(error.fault))

    def _of(self, file: str) -> Part:
        return next(part for part in self.parts if part.name == source_name(file))


def source_name(file: str) -> str:
    """The source of a file of a mixture."""
    return file.split("/", 1)[0]


def named_under(reader: Reader, name: str) -> Reader:
    """A reader whose files' names begin with the name of a source."""
    if isinstance(reader, IndexedReader):
        return replace(reader, parts=tuple((dataset, named_under(each, name)) for dataset, each in reader.parts))
    files = tuple(replace(file, name=f"{name}/{file.name}") for file in reader.files)
    return replace(reader, files=files)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class Bound:
    """Which rows of a source stay: those of smaller hashes, and so many of exactly this one."""

    draw: int
    copies: int


def rows_of_sources(rows: Mapping[str, int], weights: Mapping[str, float], caps: Mapping[str, int]) -> dict[str, int]:
    """Rows that each source gives to the mixture.

    Args:
        rows: of each source, that can be read.
        weights: relative shares; empty: every source gives all that it has, up to its cap.
        caps: most rows, of those that have one.
    """
    most = {name: min(count, caps.get(name, count)) for name, count in rows.items()}
    if not weights:
        return most
    total = min(most[name] / Fraction(weights[name]) for name in rows)
    return {name: int(total * Fraction(weights[name])) for name in rows}


def check_usable(sources: Mapping[str, SourceConfig], rows: Mapping[str, int]) -> None:
    """Raise `UserError` for a source that has no good row."""
    if empty := [name for name in sources if not rows.get(name)]:
        raise UserError(
            f"sources.{empty[0]}: not one row of {sources[empty[0]].path} can be used, so it has no share "
            "of the mixture. Is the format right? `raycurate ingest` of it alone says why, row by row"
        )


def wishes_of(sources: Mapping[str, SourceConfig], names: Iterable[str]) -> tuple[dict[str, float], dict[str, int]]:
    """Weights and caps of those sources that have some."""
    named = {name: sources[name] for name in names}
    weights = {name: each.weight for name, each in named.items() if each.weight is not None}
    return weights, {name: each.cap for name, each in named.items() if each.cap is not None}


def draws_of(keys: Sequence[str]) -> np.ndarray:
    """The hash that decides whether a row is drawn, of its content: uint64 [N]."""
    texts = (hashlib.blake2b(b"mixture" + key[:HASH_CHARS].encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(texts), dtype="<u8")


def bound_of(draw_N: np.ndarray, wanted: int) -> Bound:
    """The bound that keeps so many rows, fewer than there are."""
    assert wanted < len(draw_N), "a source that gives all its rows has no bound"
    if wanted == 0:
        return Bound(0, 0)
    last = int(np.partition(draw_N, wanted - 1)[wanted - 1])
    return Bound(last, wanted - int((draw_N < last).sum()))


def drawn(table: pa.Table, bounds: Mapping[str, Bound]) -> np.ndarray:
    """Which rows of a shard stay: bool [N]. Equal rows must all be in it, in their order."""
    names = [source_name(file) for file in table["source_file"].to_pylist()]
    draws = draws_of(table["key"].to_pylist()).tolist()
    copies: Counter[str] = Counter()
    keep_N = np.ones(table.num_rows, dtype=bool)
    for row, (name, draw) in enumerate(zip(names, draws, strict=True)):
        bound = bounds.get(name)
        if bound is None or draw < bound.draw:
            continue
        at_bound = draw == bound.draw
        copies[name] += at_bound
        keep_N[row] = at_bound and copies[name] <= bound.copies
    return keep_N
