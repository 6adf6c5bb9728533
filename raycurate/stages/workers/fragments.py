"""What loaders and actors of a forward pass share: samples as models take them, and the fragments of a shard.

An actor writes the rows of a batch as one Arrow file beside the noun that is being made; when a shard has all of them,
a task reads them, puts their rows in the order of its samples and commits the part. `row` is a row's place in its
shard; `reason` and `detail` say why it has no numbers, null where it has.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raycurate.run.filesystem import read_bytes, write_bytes
from raycurate.run.store import Noun
from raycurate.samples.schema import QUARANTINE_SCHEMA

if TYPE_CHECKING:
    from raycurate.samples.images import ImageLimits

SOURCE_COLUMNS = ["key", "source_id", "source_file", "source_row", "messages"]
EXCERPT = 500


def accepted_images(samples: Noun) -> ImageLimits:
    """The limits on images that `samples` was made with."""
    from raycurate.samples.images import accepted_limits

    return accepted_limits(samples.require("ingest").description)


def as_samples(
    rows: Iterable[Mapping[str, Any]], images: str | None, limits: ImageLimits | None = None
) -> list[dict[str, Any]]:
    """Rows of `samples` with their images as functions that load them from the image root when they are called.

    `limits` are those of `accepted_images`.
    """
    from raycurate.samples.images import DEFAULT_LIMITS, ImageRoot, load_image
    from raycurate.samples.schema import ImageRef

    root, limits = ImageRoot(images), limits or DEFAULT_LIMITS

    def load(ref: ImageRef) -> Any:
        return load_image(root.read(ref, limits.max_bytes), limits)

    def as_sample(row: Mapping[str, Any]) -> dict[str, Any]:
        references = [ImageRef(image["path"], image["data"], image["sha"]) for image in row["images"]]
        return {
            **{name: row[name] for name in ("key", "task", "messages") if name in row},
            "images": [functools.partial(load, ref) for ref in references],
            "image_keys": [ref.identity for ref in references],
        }

    return [as_sample(row) for row in rows]


def _name(shard: int, window: int, batch: int) -> str:
    return f"fragments/{shard:05d}-{window:05d}-{batch:05d}.arrow"


def write_fragment(noun: Noun, place: Mapping[str, Any], fragment: pa.Table) -> None:
    """Write the rows of one batch aside."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, fragment.schema) as writer:
        writer.write_table(fragment)
    write_bytes(noun.filesystem, _path(noun, place["shard"], place["window"], place["batch"]), sink.getvalue())


def read_fragments(noun: Noun, shard: int, batches: Mapping[int, int]) -> pa.Table:
    """All rows of a shard's fragments; `batches` has the number of batches of each window."""
    places = [(window, number) for window, count in batches.items() for number in range(count)]
    data = (read_bytes(noun.filesystem, _path(noun, shard, *place)) for place in places)
    tables = [pa.ipc.open_file(pa.py_buffer(each)).read_all() for each in data]
    return pa.concat_tables(tables, promote_options="default")


def delete_fragments(noun: Noun, shard: int, batches: Mapping[int, int]) -> None:
    """Remove what `read_fragments` reads."""
    for window, count in batches.items():
        for number in range(count):
            noun.filesystem.delete_file(_path(noun, shard, window, number))


def _path(noun: Noun, shard: int, window: int, batch: int) -> str:
    return f"{noun.folder}/{_name(shard, window, batch)}"


def rejects_of(
    source: pa.Table, rows: np.ndarray, reasons: Sequence[str | None], details: Sequence[str | None]
) -> pa.Table:
    """Quarantine rows: those of `source` (with `SOURCE_COLUMNS`) by number, each with its reason."""
    taken = source.take(pa.array(rows, pa.int64()))
    excerpts = [" ".join(m["text"] for m in messages)[:EXCERPT] for messages in taken["messages"].to_pylist()]
    columns = {name: taken[name] for name in ("key", "source_id", "source_file", "source_row")}
    columns["reason"] = pa.array(list(reasons), pa.string())
    columns["detail"] = pa.array(list(details), pa.string())
    columns["excerpt"] = pa.array(excerpts, pa.string())
    return pa.table(columns).cast(QUARANTINE_SCHEMA)
