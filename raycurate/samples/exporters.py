"""Write samples as the files that trainers read, streaming and atomic.

    llava     JSON array: id, image (a path, or a list), conversations of human/gpt           LLaVA, TinyLLaVA
    sharegpt  JSON Lines: conversations of human/gpt, images (a list of paths)                LLaMA-Factory
    swift     JSON Lines: messages with <image> marks, images, channel (the task), loss       ms-swift
    messages  JSON Lines: messages of content blocks, images                                  TRL, chat templates
    parquet   messages of content blocks (or text), images as {bytes, path}, key, task        datasets, TRL

Text is written to the letter, so a file that is read again gives the same content hashes (where images are paths).
How images are named, and where those go that a JSON format cannot hold: `export_images.py`. A file appears when it is
complete.
Cost: one pass; memory is one row (one row group for Parquet).
"""

from __future__ import annotations

import json
import posixpath
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raycurate.errors import UserError, unknown_name
from raycurate.run.filesystem import TEMPORARY, resolve
from raycurate.samples.alternate import ALTERNATING, alternates, joined
from raycurate.samples.export_images import ImageNames, local_folder
from raycurate.samples.images import DEFAULT_LIMITS, ImageRoot
from raycurate.samples.marks import split_marks
from raycurate.samples.quarantine import FaultError
from raycurate.samples.schema import ImageRef, Sample, row_to_sample
from raycurate.samples.tasks import UNKNOWN_TASK

_LLAVA_ROLES = {"user": "human", "assistant": "gpt", "system": "system"}
_MEDIA_TAGS = ("<video>", "<audio>")
_GROUP_ROWS = 1000
_GROUP_BYTES = 64 << 20

PARQUET_EXPORT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("task", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
    ]
)


_HF_STRING = {"dtype": "string", "_type": "Value"}
_HF_FEATURES = {
    "key": _HF_STRING,
    "id": _HF_STRING,
    "task": _HF_STRING,
    "messages": [{"role": _HF_STRING, "content": _HF_STRING}],
    "images": {"feature": {"_type": "Image"}, "_type": "Sequence"},
}


@dataclass(slots=True)
class ExportCounts:
    """What an export wrote."""

    rows: int = 0
    images_written: int = 0
    """Embedded images that became files."""
    media_texts: int = 0
    """Rows that hold the text <video> or <audio>."""
    context_only: int = 0
    """Rows with an answer that is not trained on."""
    without_image: int = 0
    """Rows that are left out because the format holds images only."""
    turns_joined: int = 0
    """Rows whose turns of one role in a row became one."""
    tasks: Counter[str] = field(default_factory=Counter)
    """Rows by task."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to write.

    Attributes:
        images: the root of the image paths.
        embed: put the files below it into Parquet; else Parquet has their absolute paths.
        blocks: content blocks in Parquet, as TRL wants them; else text with marks.
        one_kind: all images can be named from one folder, be it that of the files or of the output; else LLaVA's
            format has absolute paths.
        image_lists: ``image`` of LLaVA's format is a list in every row; needed where one row has several.
        max_image_bytes: of a file that is put into Parquet.
        train_all: write rows whose answers are not all trained on also where the format cannot say so.
        join_turns: write turns of one role in a row as one where the format's trainers take no others.
    """

    images: ImageRoot | None = None
    embed: bool = False
    blocks: bool = True
    one_kind: bool = True
    image_lists: bool = False
    max_image_bytes: int = DEFAULT_LIMITS.max_bytes
    train_all: bool = False
    join_turns: bool = False


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What an export says of itself.

    Attributes:
        made_from: the run and the selection.
        fingerprint: of the selection.
        weights: of every task; None: none.
    """

    made_from: str
    fingerprint: str
    weights: Mapping[str, float] | None = None


Exporter = Callable[[Iterable[Sample], str, ExportOptions], ExportCounts]


def samples_from_tables(tables: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[Sample]:
    """The samples of tables of ``SAMPLE_SCHEMA``, a few rows at a time."""
    for table in tables:
        for start in range(0, table.num_rows, _GROUP_ROWS):
            for row in table.slice(start, _GROUP_ROWS).to_pylist():
                yield row_to_sample(row)


def export_samples(
    samples: Iterable[Sample], output: str, format: str, options: ExportOptions | None = None
) -> ExportCounts:
    """Write samples to the file ``output`` (a path or a URI). ``UserError`` for an unknown format."""
    if format not in EXPORTERS:
        raise unknown_name("export format", format, EXPORTERS)
    filesystem, path = resolve(output)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        raise UserError(f"{output} is a folder. Name a file in it, for example {output.rstrip('/')}/coreset.json")
    seen, options = ExportCounts(), options or ExportOptions()
    counts = EXPORTERS[format](looked_at(samples, seen, format, options), output, options)
    return replace(seen, rows=counts.rows, images_written=counts.images_written)


def looked_at(samples: Iterable[Sample], counts: ExportCounts, format: str, options: ExportOptions) -> Iterator[Sample]:
    """The samples as they are; counts what a trainer would read otherwise, and refuses what a format cannot say."""
    refusing = format not in SAYS_WHAT_IS_TRAINED and not options.train_all
    for sample in samples:
        if not all(message.train for message in sample.messages):
            counts.context_only += 1
            if refusing:
                raise UserError(
                    f"row {sample.key} has an answer that is not trained on, which the format '{format}' cannot say: "
                    f"a trainer would learn it. Export as swift, swift_tasks or webdataset, or say that all answers "
                    "may be trained on (--set train_all=true)."
                )
        if format in ALTERNATING and not alternates(sample.messages):
            if not options.join_turns:
                raise UserError(
                    f"row {sample.key} has several turns of one role in a row, which trainers of the format '{format}' "
                    "do not take. Write them as one (--set join_turns=true), or export as messages, parquet, swift or "
                    "webdataset."
                )
            counts.turns_joined += 1
            sample = joined(sample)
        counts.tasks[sample.task or UNKNOWN_TASK] += 1
        counts.media_texts += any(tag in m.text for m in sample.messages for tag in _MEDIA_TAGS)
        yield sample


def _write_llava(samples: Iterable[Sample], output: str, options: ExportOptions) -> ExportCounts:
    counts, images = ExportCounts(), ImageNames(output, options.images, absolute=not options.one_kind)
    with images.kept_if_written(), _atomic_stream(output) as stream:
        stream.write(b"[")
        for sample in samples:
            paths = images.of(sample)
            row: dict[str, Any] = {"id": row_id(sample)}
            if paths:
                row["image"] = paths if options.image_lists or len(paths) > 1 else paths[0]
            row["conversations"] = _llava_turns(sample)
            row["task"] = sample.task
            stream.write((",\n" if counts.rows else "\n").encode() + json_bytes(row))
            counts.rows += 1
        stream.write(b"\n]\n")
    counts.images_written = len(images.written)
    return counts


def _write_lines(to_row: Callable[[Sample, list[str]], dict[str, Any]]) -> Exporter:
    """The writer of a JSON Lines format."""

    def write(samples: Iterable[Sample], output: str, options: ExportOptions) -> ExportCounts:
        counts, images = ExportCounts(), ImageNames(output, options.images)
        with images.kept_if_written(), _atomic_stream(output) as stream:
            for sample in samples:
                stream.write(json_bytes(to_row(sample, images.of(sample))) + b"\n")
                counts.rows += 1
        counts.images_written = len(images.written)
        return counts

    return write


def sharegpt_row(sample: Sample, paths: list[str]) -> dict[str, Any]:
    """A row of LLaMA-Factory's format `sharegpt`."""
    return {"id": row_id(sample), "conversations": _llava_turns(sample), "images": paths, "task": sample.task}


def swift_row(sample: Sample, paths: list[str]) -> dict[str, Any]:
    """A row of ms-swift's format."""
    messages = swift_messages(sample)
    return {"id": row_id(sample), "messages": messages, "images": paths, "channel": sample.task, "task": sample.task}


def swift_messages(sample: Sample) -> list[dict[str, Any]]:
    """Turns with <image> marks; one that is not trained on says so."""
    return [{"role": m.role, "content": m.text, **({} if m.train else {"loss": False})} for m in sample.messages]


def _messages_row(sample: Sample, paths: list[str]) -> dict[str, Any]:
    messages = [{"role": m.role, "content": _content_blocks(m.text)} for m in sample.messages]
    return {"id": row_id(sample), "messages": messages, "images": paths, "task": sample.task}


def _write_parquet(samples: Iterable[Sample], output: str, options: ExportOptions) -> ExportCounts:
    counts = ExportCounts()
    schema = _parquet_schema(options.blocks)
    with _atomic_stream(output) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for group in _groups(_parquet_row(sample, options) for sample in samples):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            counts.rows += len(group)
    return counts


def _parquet_schema(blocks: bool) -> pa.Schema:
    """The columns, and what `datasets` shows them as."""
    content: Any = [{"type": _HF_STRING, "text": _HF_STRING}] if blocks else _HF_STRING
    arrow = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())])) if blocks else pa.string()
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", arrow)]))
    features = {**_HF_FEATURES, "messages": [{"role": _HF_STRING, "content": content}]}
    schema = PARQUET_EXPORT_SCHEMA.set(3, pa.field("messages", turns))
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _parquet_row(sample: Sample, options: ExportOptions) -> dict[str, Any]:
    images = [_parquet_image(image, sample, options) for image in sample.images]
    messages = [
        {"role": m.role, "content": _content_blocks(m.text) if options.blocks else m.text} for m in sample.messages
    ]
    return {"key": sample.key, "id": sample.source_id, "task": sample.task, "messages": messages, "images": images}


def _parquet_image(image: ImageRef, sample: Sample, options: ExportOptions) -> dict[str, Any]:
    root = options.images
    if image.data is not None or root is None or root.root is None:
        return {"bytes": image.data, "path": image.path}
    if not options.embed:
        return {"bytes": None, "path": posixpath.join(local_folder(root) or root.root, image.path or "")}
    return {"bytes": image_bytes(image, sample, options), "path": image.path}


def image_bytes(image: ImageRef, sample: Sample, options: ExportOptions) -> bytes:
    """The bytes of an image, its own or its file's. ``UserError`` for one that cannot be read, or without a root."""
    if image.data is not None:
        return image.data
    root = options.images
    if root is None or root.root is None:
        raise UserError(f"row {sample.key}: nobody says where {image.path} lies. Name a root with --set images=FOLDER.")
    try:
        return root.read(image, options.max_image_bytes)
    except FaultError as error:
        raise UserError(
            f"row {sample.key}: {error.fault.detail}, which is {root.root}. Name another with --set images=FOLDER; a "
            "Parquet file can have paths alone (--set embed_images=false)."
        ) from None


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows by row group, bounded in rows and in image bytes."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(image["bytes"] or b"") for image in row["images"])
        if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def row_id(sample: Sample) -> str:
    """What the row is called: its name in the source, else its key."""
    return sample.source_id if sample.source_id is not None else sample.key


def _llava_turns(sample: Sample) -> list[dict[str, str]]:
    return [{"from": _LLAVA_ROLES[m.role], "value": m.text} for m in sample.messages]


def _content_blocks(text: str) -> list[dict[str, str]]:
    blocks = split_marks(text)
    return [{"type": "image"} if block is None else {"type": "text", "text": block} for block in blocks]


def json_bytes(value: Any) -> bytes:
    """A value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@contextmanager
def _atomic_stream(output: str) -> Iterator[pa.NativeFile]:
    """A stream whose file gets its name when all is written, and is removed when that fails."""
    filesystem, path = resolve(output)
    folder, name = posixpath.split(path)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        # An object is published by closing its stream, and renamed by a copy that servers limit: it is sent once whole.
        with tempfile.TemporaryDirectory(prefix="raycurate-export-") as scratch:
            with pa.OSFile(f"{scratch}/{name}", "wb") as stream:
                yield stream
            pafs.copy_files(f"{scratch}/{name}", path, pafs.LocalFileSystem(), filesystem)
        return
    temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{name}"
    filesystem.create_dir(folder, recursive=True)
    try:
        with filesystem.open_output_stream(temporary) as stream:
            yield stream
        filesystem.move(temporary, path)
    except BaseException:
        if filesystem.get_file_info(temporary).type != pafs.FileType.NotFound:
            filesystem.delete_file(temporary)
        raise


SAYS_WHAT_IS_TRAINED = ("swift", "swift_tasks", "webdataset", "fiftyone")
"""Formats with a field for an answer that is context only."""
EXPORTERS: dict[str, Exporter] = {
    "llava": _write_llava,
    "sharegpt": _write_lines(sharegpt_row),
    "swift": _write_lines(swift_row),
    "messages": _write_lines(_messages_row),
    "parquet": _write_parquet,
}
