"""Read Parquet by row groups, and the Arrow stream files of ``datasets.save_to_disk`` by record batches.

A Parquet slice is a run of whole row groups: at least one, then more while they fit ``slice_rows``. Only columns that
a sample can be made of, and numbers that are kept beside it, are read, page by page, so memory does not grow with the
row group. An Arrow slice is the byte range of a run of record batches; a local file is mapped, so finding the ranges
reads only the headers. A remote stream is read once for it. Values become Python objects ``_ROWS`` rows at a time,
because images may be embedded, one row at a time where videos may. A page of a Parquet file is in memory whole.
Dictionary-encoded Arrow streams are refused (``datasets`` does not write them).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycurate.errors import UserError
from raycurate.run.filesystem import exists, read_json, resolve
from raycurate.samples.extras import is_kept_type
from raycurate.samples.parse_task import COLUMNS as TASK_COLUMNS
from raycurate.samples.quarantine import Fault, Reason
from raycurate.samples.rows import RawRow, ReadError, ReadOptions, Slice, SourceFile, all_slices
from raycurate.samples.sources import open_file
from raycurate.samples.tables import TURN_FIELDS, columns_of_table
from raycurate.samples.unsupported import COLUMNS as MEDIA_COLUMNS

COLUMNS = (*("id", "conversations", "messages", "texts", "image", "images", "system"), *MEDIA_COLUMNS)
"""Columns that rows of turns are made of or refused for."""

ROW_GROUPS, BATCHES, BATCHES_CUT = "row_groups", "batches", "batches_cut"
_ROWS = 32
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Parquet files, Hugging Face's included."""

    files: tuple[SourceFile, ...]
    options: ReadOptions

    def slices(self) -> list[Slice]:
        """See ``Reader``."""
        return all_slices(self)

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """See ``Reader``. ``UserError`` for a file that is no Parquet, or has no conversations."""
        with open_file(file.uri) as stream:
            try:
                parquet = pq.ParquetFile(stream)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{file.uri} is not a readable Parquet file: {error}") from None
            _require_turns(parquet.schema_arrow.names, file, self.options)
            groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        runs = _runs(sizes, self.options)
        return [Slice(ROW_GROUPS, file.name, file.uri, *run) for run in runs if run[3]]

    def unread_columns(self, file: SourceFile, /) -> list[str]:
        """See ``Reader``."""
        with open_file(file.uri) as stream:
            return _columns(pq.ParquetFile(stream).schema_arrow, self.options)[1]

    def read(self, part: Slice) -> Iterator[RawRow]:
        """See ``Reader``."""
        with open_file(part.uri) as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            columns, _ = _columns(parquet.schema_arrow, self.options)
            groups = list(range(part.start, part.stop))
            at_once = _rows_at_once(self.options)
            batches = parquet.iter_batches(at_once, row_groups=groups, columns=columns, use_threads=False)
            yield from _rows_of(part, batches, at_once)


@dataclass(frozen=True, slots=True)
class HuggingFaceReader:
    """The folder that ``datasets.Dataset.save_to_disk`` writes."""

    files: tuple[SourceFile, ...]
    options: ReadOptions

    def slices(self) -> list[Slice]:
        """See ``Reader``."""
        return all_slices(self)

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """See ``Reader``. ``UserError`` for a file that is no Arrow stream, or has no conversations."""
        sizes: list[tuple[int, int]] = []
        offsets: list[int] = []
        kind = BATCHES
        with open_file(file.uri, mapped=True) as stream:
            schema = _stream_schema(stream, file)
            _require_turns(schema.names, file, self.options)
            while True:
                offsets.append(stream.tell())
                try:
                    rows = _next_batch(stream, schema, file).num_rows
                except EOFError:
                    break
                except (pa.ArrowException, OSError):
                    kind = BATCHES_CUT
                    break
                sizes.append((rows, stream.tell() - offsets[-1]))
        slices = [
            Slice(BATCHES, file.name, file.uri, offsets[first], offsets[last], row, rows)
            for first, last, row, rows in _runs(sizes, self.options)
        ]
        if kind == BATCHES_CUT:
            total = sum(rows for rows, _ in sizes)
            slices.append(Slice(kind, file.name, file.uri, offsets[-1], offsets[-1], total, 1))
        return slices

    def unread_columns(self, file: SourceFile, /) -> list[str]:
        """See ``Reader``."""
        with open_file(file.uri, mapped=True) as stream:
            return _columns(_stream_schema(stream, file), self.options)[1]

    def read(self, part: Slice) -> Iterator[RawRow]:
        """See ``Reader``."""
        if part.kind == BATCHES_CUT:
            detail = "the Arrow stream is cut short or damaged from here on"
            yield RawRow(part.file, part.first_row, ReadError(Fault(Reason.FILE_CORRUPT, detail)))
            return
        with open_file(part.uri, mapped=True) as stream:
            file = SourceFile(part.file, part.uri, 0)
            schema = _stream_schema(stream, file)
            columns, _ = _columns(schema, self.options)
            stream.seek(part.start)
            yield from _rows_of(part, _batches(stream, part.stop, schema, columns, file), _rows_at_once(self.options))


def _rows_at_once(options: ReadOptions) -> int:
    """How many rows are Python objects together: a video may be larger than all images of many rows."""
    return _ROWS if options.max_video_bytes is None else 1


def _columns(schema: pa.Schema, options: ReadOptions) -> tuple[list[str], list[str]]:
    """The columns that are read, and the others; a column without any value is neither."""
    if options.every_column:
        return list(schema.names), []
    names = set(COLUMNS) | {name for name in TASK_COLUMNS if name != "metadata"}
    names |= {part for name in options.columns for part in (name, name.split(".")[0])}
    names |= set(columns_of_table(schema.names).values())
    names |= {field.name for field in schema if is_kept_type(field.type) or _tells_the_dataset(field)}
    read = [name for name in schema.names if name in names]
    empty = {field.name for field in schema if pa.types.is_null(field.type)}
    return read, [name for name in schema.names if name not in names and name not in empty]


def _tells_the_dataset(field: pa.Field) -> bool:
    return field.name == "metadata" and pa.types.is_struct(field.type) and field.type.get_field_index("dataset") >= 0


def huggingface_files(folder: str, split: str | None) -> tuple[SourceFile, ...]:
    """The Arrow files of a saved ``Dataset``, or of a split of a saved ``DatasetDict``, in row order."""
    filesystem, path = resolve(folder)
    splits = read_json(filesystem, posixpath.join(path, "dataset_dict.json"))
    if splits is not None:
        names = list(splits.get("splits", []))
        if split is None and len(names) == 1:
            split = names[0]
        if split not in names:
            asked = "choose a split" if split is None else f"there is no split '{split}'"
            raise UserError(f"{folder} holds a DatasetDict: {asked} of {', '.join(names)}")
        folder, path = f"{folder}/{split}", posixpath.join(path, str(split))
    state = read_json(filesystem, posixpath.join(path, "state.json"))
    if state is None:
        raise UserError(f"{folder} has no state.json; it is not a folder written by datasets.save_to_disk")
    if state.get("_indices_data_files"):
        raise UserError(f"{folder} keeps a row index beside its data; call flatten_indices() and save it again")
    return tuple(_data_file(folder, entry["filename"]) for entry in state["_data_files"])


def is_huggingface_folder(folder: str) -> bool:
    """Whether ``datasets.save_to_disk`` wrote this folder."""
    filesystem, path = resolve(folder)
    return any(exists(filesystem, posixpath.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def _data_file(folder: str, name: str) -> SourceFile:
    if posixpath.basename(name) != name or name in ("", ".", ".."):
        raise UserError(f"{folder}/state.json names the file {name!r}, which is outside its folder")
    filesystem, path = resolve(f"{folder}/{name}")
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise UserError(f"{folder}/state.json names the file {name!r}, which is missing")
    return SourceFile(name, f"{folder}/{name}", info.size)


def _require_turns(names: list[str], file: SourceFile, options: ReadOptions) -> None:
    if options.any_table or set(TURN_FIELDS) & set(names) or columns_of_table(names):
        return
    raise UserError(
        f"{file.uri} has no column 'conversations' or 'messages'; its columns are {', '.join(names) or 'none'}. Say "
        "which are what: --columns question=COLUMN,answer=COLUMN,image=COLUMN"
    )


def _runs(sizes: list[tuple[int, int]], options: ReadOptions) -> list[tuple[int, int, int, int]]:
    """``(first, last + 1, first row, rows)`` of runs of pieces, given each piece's rows and bytes."""
    runs: list[tuple[int, int, int, int]] = []
    first = first_row = rows = size = 0
    for i, (piece_rows, piece_bytes) in enumerate(sizes):
        full = rows + piece_rows > options.slice_rows or size + piece_bytes > options.slice_bytes
        if full and i > first:
            runs.append((first, i, first_row, rows))
            first, first_row, rows, size = i, first_row + rows, 0, 0
        rows, size = rows + piece_rows, size + piece_bytes
    if rows:
        runs.append((first, len(sizes), first_row, rows))
    return runs


def _stream_schema(stream: pa.NativeFile, file: SourceFile) -> pa.Schema:
    try:
        return pa.ipc.read_schema(pa.ipc.read_message(stream))
    except (pa.ArrowException, OSError, EOFError) as error:
        raise UserError(f"{file.uri} is not an Arrow stream file: {error}") from None


def _next_batch(stream: pa.NativeFile, schema: pa.Schema, file: SourceFile) -> pa.RecordBatch:
    message = pa.ipc.read_message(stream)
    if message.type == "dictionary":
        raise UserError(f"{file.uri} holds dictionary-encoded columns; cast them to strings and save it again")
    return pa.ipc.read_record_batch(message, schema)


def _batches(
    stream: pa.NativeFile, stop: int, schema: pa.Schema, columns: list[str], file: SourceFile
) -> Iterator[pa.RecordBatch]:
    while stream.tell() < stop:
        yield _next_batch(stream, schema, file).select(columns)


def _rows_of(part: Slice, batches: Iterator[pa.RecordBatch], at_once: int) -> Iterator[RawRow]:
    """The rows of record batches; what cannot be decoded is one refused row, what follows damage is lost as one."""
    row = part.first_row
    try:
        for batch in batches:
            for value in _values(batch, at_once):
                yield RawRow(part.file, row, value)
                row += 1
    except (pa.ArrowException, OSError, EOFError) as error:
        lost = part.first_row + (part.num_rows or 0) - row
        detail = f"the file is damaged from here on ({lost} rows of this part): {error}"
        yield RawRow(part.file, row, ReadError(Fault(Reason.FILE_CORRUPT, detail)))


def _values(batch: pa.RecordBatch, at_once: int) -> Iterator[Any]:
    """Rows as Python values. A batch from outside is validated first: wrong offsets would read foreign memory."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        _bytes_of(batch).validate(full=True)  # raises for all but wrong UTF-8
        for i in range(batch.num_rows):
            yield _value(batch.slice(i, 1))
        return
    for start in range(0, batch.num_rows, at_once):
        yield from batch.slice(start, at_once).to_pylist()


def _value(row: pa.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return ReadError(Fault(Reason.INVALID_UTF8, "a string column of the row is not UTF-8"))


def _bytes_of(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with every string seen as bytes, nothing copied."""
    return batch.cast(pa.schema([field.with_type(_bytes_type(field.type)) for field in batch.schema]))


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field.with_type(_bytes_type(kind.value_type))
        return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
    return kind
