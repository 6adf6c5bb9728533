"""One VIT sample, its Arrow schema, and the key that names it.

A sample's key is a function of its content only: ``blake2b-128(messages + image references)`` in hex, then ``-`` and
the occurrence number among exact duplicates. It does not change when the source is split, merged or reordered; the
source's own ``id`` is kept beside it but is not trusted to be unique.

The canonical order of a dataset is ``(order, key)``, where ``order`` is a hash of the first image reference (of the
content for a text-only row). It is a fixed pseudo-random order in which rows that share an image are neighbours, so
that one forward pass can serve them all, and every shard is a random sample of the dataset's images.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

IMAGE_MARK = "<image>"
ORDER_BYTES = 8
HASH_CHARS = 32
"""Of the content's hash, which a key begins with."""

MESSAGE_TYPE = pa.struct([("role", pa.string()), ("text", pa.string()), ("train", pa.bool_())])
IMAGE_TYPE = pa.struct([("path", pa.string()), ("data", pa.large_binary()), ("sha", pa.string())])

SAMPLE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_id", pa.string()),
        ("task", pa.string()),
        ("messages", pa.list_(MESSAGE_TYPE)),
        ("images", pa.list_(IMAGE_TYPE)),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("order", pa.binary(ORDER_BYTES)),
        ("extra", pa.string()),
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_id", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("excerpt", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``text`` holds one ``<image>`` mark where each image stands.

    ``train`` is False for an answer that is context only: the source says that no loss is taken on it. The turns of
    the user and the system are never trained on; theirs is always True.
    """

    role: str
    text: str
    train: bool = True


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by path below the image root, or by its encoded bytes (then ``sha`` names the bytes)."""

    path: str | None = None
    data: bytes | None = None
    sha: str | None = None

    @property
    def identity(self) -> str:
        """The name under which equal images are equal: the hash of the bytes, else the path."""
        return f"sha:{self.sha}" if self.sha else f"path:{self.path}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One validated VIT row."""

    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    source_id: str | None = None
    task: str = "unknown"
    source_file: str = ""
    source_row: int = 0
    extra: str | None = None
    """Further values of the row, as JSON (`extras.py`)."""
    occurrence: int = field(default=0, compare=False)
    task_from: str = field(default="", compare=False)
    """What said the task, while it is read."""

    @property
    def content_hash(self) -> str:
        """Hex blake2b-128 of the messages and image references: the key without its occurrence number."""
        return content_hash(self.messages, self.images)

    @property
    def key(self) -> str:
        """The sample's name in every noun of the run."""
        return f"{self.content_hash}-{self.occurrence}"

    @property
    def order(self) -> bytes:
        """Sort hash: equal for rows whose first image is the same."""
        return sort_hash(self.images, "" if self.images else self.content_hash)


def content_hash(messages: Sequence[Message], images: Sequence[ImageRef]) -> str:
    """Hex blake2b-128 of a canonical JSON form of the conversation and its image references.

    That an answer is not trained on is part of it; that it is trained on, the common case, is not.
    """
    canonical = json.dumps(
        [
            [[m.role, m.text] if m.train else [m.role, m.text, False] for m in messages],
            [image.identity for image in images],
        ],
        ensure_ascii=True,
        separators=(",", ":"),
    )
    return hashlib.blake2b(canonical.encode(), digest_size=16).digest().hex()


def sort_hash(images: Sequence[ImageRef], content: str) -> bytes:
    """The place of a row in the canonical order: a hash of its first image, or of its content where it has none."""
    seed = images[0].identity if images else f"text:{content}"
    return hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=ORDER_BYTES).digest()


def sample_to_row(sample: Sample) -> dict[str, Any]:
    """The Arrow row of a sample (``SAMPLE_SCHEMA``)."""
    return {
        "key": sample.key,
        "source_id": sample.source_id,
        "task": sample.task,
        "messages": [{"role": m.role, "text": m.text, "train": m.train} for m in sample.messages],
        "images": [{"path": i.path, "data": i.data, "sha": i.sha} for i in sample.images],
        "source_file": sample.source_file,
        "source_row": sample.source_row,
        "order": sample.order,
        "extra": sample.extra,
    }


def samples_to_table(samples: Sequence[Sample]) -> pa.Table:
    """An Arrow table of samples, column by column."""
    contents = [sample.content_hash for sample in samples]
    messages = [message for sample in samples for message in sample.messages]
    images = [image for sample in samples for image in sample.images]
    columns: dict[str, Any] = {
        "key": [f"{content}-{sample.occurrence}" for content, sample in zip(contents, samples, strict=True)],
        "source_id": [sample.source_id for sample in samples],
        "task": [sample.task for sample in samples],
        "messages": _lists(
            [len(sample.messages) for sample in samples],
            MESSAGE_TYPE,
            ([m.role for m in messages], [m.text for m in messages], [m.train for m in messages]),
        ),
        "images": _lists(
            [len(sample.images) for sample in samples],
            IMAGE_TYPE,
            ([i.path for i in images], [i.data for i in images], [i.sha for i in images]),
        ),
        "source_file": [sample.source_file for sample in samples],
        "source_row": [sample.source_row for sample in samples],
        "order": [sort_hash(sample.images, content) for content, sample in zip(contents, samples, strict=True)],
        "extra": [sample.extra for sample in samples],
    }
    return pa.table(
        [
            column if isinstance(column := columns[field.name], pa.Array) else pa.array(column, field.type)
            for field in SAMPLE_SCHEMA
        ],
        SAMPLE_SCHEMA,
    )


def _lists(lengths: list[int], kind: pa.StructType, columns: Sequence[list[Any]]) -> pa.ListArray:
    """A column of lists of structs from the values of all lists, one field after another."""
    fields = [kind.field(number) for number in range(kind.num_fields)]
    values = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    return pa.ListArray.from_arrays(
        [0, *itertools.accumulate(lengths)], pa.StructArray.from_arrays(values, fields=fields)
    )


def row_to_sample(row: dict[str, Any]) -> Sample:
    """The inverse of ``sample_to_row``. A turn without a ``train`` value is trained on."""
    return Sample(
        messages=tuple(Message(m["role"], m["text"], m.get("train") is not False) for m in row["messages"]),
        images=tuple(ImageRef(i["path"], i["data"], i["sha"]) for i in row["images"]),
        source_id=row["source_id"],
        task=row["task"],
        source_file=row["source_file"],
        source_row=row["source_row"],
        extra=row.get("extra"),
        occurrence=int(row["key"].rpartition("-")[2]),
    )
