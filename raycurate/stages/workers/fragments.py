"""What loaders and actors of a forward pass share: windows of samples as models take them, the lines that batches
travel in, the device, and the fragments of a shard.

An actor writes the rows of a batch as one Arrow file beside the noun that is being made; when a shard has all of them,
a task reads them, puts their rows in the order of its samples and commits the part. `row` is a row's place in its
shard; `reason` and `detail` say why it has no numbers, null where it has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from raycurate.run.filesystem import read_bytes, write_bytes
from raycurate.run.store import Noun
from raycurate.samples.schema import QUARANTINE_SCHEMA
from raycurate.stages.workers.windows import windows_of

if TYPE_CHECKING:
    from raycurate.samples.images import ImageLimits

Batch = TypeVar("Batch")
Result = TypeVar("Result")
ReadShard = Callable[[Noun, int], pa.Table]


class WindowSettings(Protocol):
    """The settings that bound a window."""

    @property
    def window_rows(self) -> int: ...

    @property
    def window_mb(self) -> int | None: ...


SOURCE_COLUMNS = ["key", "source_id", "source_file", "source_row", "messages"]
EXCERPT = 500


def accepted_images(samples: Noun) -> ImageLimits:
    """The limits on images that `samples` was made with."""
    from raycurate.samples.images import accepted_limits

    return accepted_limits(samples.require("ingest").description)


def as_samples(
    rows: Iterable[Mapping[str, Any]], images: str | None, limits: ImageLimits | None = None
) -> list[dict[str, Any]]:
    """Rows of `samples` with their images as functions that load them from the image root when they are called, and
    as functions that give their bytes.

    `limits` are those of `accepted_images`. The first call has the images that come next fetched as well.
    """
    from raycurate.samples.fetched import FetchedImages
    from raycurate.samples.images import DEFAULT_LIMITS, ImageRoot, load_image
    from raycurate.samples.schema import ImageRef

    limits = limits or DEFAULT_LIMITS
    shown = [(row, [ImageRef(i["path"], i["data"], i["sha"]) for i in row["images"]]) for row in rows]
    fetched = FetchedImages(ImageRoot.of(images), (ref for _, refs in shown for ref in refs), limits.max_bytes)

    def load(ref: ImageRef) -> Any:
        return load_image(fetched.read(ref), limits)

    def as_sample(row: Mapping[str, Any], references: list[ImageRef]) -> dict[str, Any]:
        return {
            **{name: row[name] for name in ("key", "task", "messages") if name in row},
            "images": [functools.partial(load, ref) for ref in references],
            "encoded": [functools.partial(fetched.read, ref) for ref in references],
            "image_keys": [ref.identity for ref in references],
        }

    return [as_sample(row, references) for row, references in shown]


def read_rows(samples: Noun, shard: int) -> pa.Table:
    """What a model reads of a shard."""
    return samples.read_part(shard, ["key", "messages", "images"])


def loaded_windows(
    samples: Noun,
    config: WindowSettings,
    image_bytes: int,
    images: str | None,
    table: pa.Table,
    read: ReadShard = read_rows,
) -> Iterator[tuple[dict[str, int], list[dict[str, Any]]]]:
    """Its place and its samples, for each window of the shards in `table`.

    Args:
        samples: the noun.
        config: how large a window may be.
        image_bytes: of a processed image.
        images: the image root.
        table: what Ray Data hands to a loader, with the column `shard`.
        read: the rows of a shard.
    """
    limits = accepted_images(samples)
    for shard in table["shard"].to_pylist():
        rows = read(samples, shard)
        windows = windows_of(rows, config.window_rows, image_bytes, config.window_mb)
        for window, (start, stop) in enumerate(windows):
            place = {"shard": shard, "start": start, "window": window, "windows": len(windows)}
            yield place, as_samples(rows.slice(start, stop - start).to_pylist(), images, limits)


def lines_of(
    place: Mapping[str, int],
    batches: list[Batch],
    packed: Callable[[int, Batch | None], Mapping[str, Any]],
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    """One Arrow row per batch of a window, and one where it has none.

    Args:
        place: of the window.
        batches: emptied: each is packed when it is its turn, and held no longer than that.
        packed: the other columns, from the number of the batch and the batch.
        schema: of the row.
    """
    count = max(1, len(batches))
    for number in range(count):
        columns = packed(number, batches.pop(0) if batches else None)
        line = {**place, "batch": number, "batches": count, **columns}
        yield pa.Table.from_pylist([line], schema=schema)


class ModelThread:
    """The thread of an actor in which its model runs, one batch after the other.

    An actor has `CALLS` calls under way: while one batch goes through the model, the next is unpacked and the numbers
    of the one before are written. What torch keeps for each thread, as their number on a processor, is set here.
    """

    def __init__(self, stage: str, on_gpu: bool, threads: int) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.device = self.run(_actor_device, stage, on_gpu, threads)

    def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Call a function there, when those before it are done; its result, or its error."""
        return self._thread.submit(function, *args, **kwargs).result()


def _actor_device(stage: str, on_gpu: bool, threads: int) -> str:
    """Where an actor of a stage puts its model; a processor is set up for so many threads."""
    from raycurate.device import use_device
    from raycurate.models.cpu import prepare_cpu

    if not on_gpu:
        prepare_cpu(threads)
    return use_device(on_gpu, stage).type


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
