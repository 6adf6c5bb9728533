"""What a source is, from a bounded, seeded sample of its rows: rows, turns, characters, images, bytes, pixels.

    source --readers of ingest--> slices of some files --first rows of some slices--> parsed rows --> means
    run    --samples noun-------> rows of some parts   ----------------------------------------^

A source of up to `WHOLE_BYTES` is read whole. Of a larger one up to `MOST_FILES` files are cut into slices, which scans
them for the ends of rows, and the rows of the others follow by bytes. Pixels are those in the headers of some images.
Cost: the scan of those files, a second or two else. Limits: files of very different rows that are not drawn do not
count; of a sampled source each image reference counts as an image of its own, which is the dear side.
Of a mixture each source is sampled by itself, and its rows count by its weight and cap as `ingest` has them.
"""

from __future__ import annotations

import io
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun
from raycurate.samples.images import ImageRoot
from raycurate.samples.mixture import check_usable, rows_of_sources, source_name, wishes_of
from raycurate.samples.opening import open_reader, parse_options
from raycurate.samples.parse import parse_row
from raycurate.samples.quarantine import FaultError
from raycurate.samples.rows import Reader, Slice, SourceFile
from raycurate.samples.schema import ImageRef, Sample, row_to_sample

WHOLE_BYTES = 32 << 20
MOST_FILES, MOST_SLICES, MOST_PARTS = 8, 16, 8
SAMPLED_ROWS, SAMPLED_IMAGES = 2000, 64
USUAL_SHAPE, USUAL_BYTES = (640, 480), 100_000
"""Of an image that cannot be read here, pixels and bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the formulas know of the rows. All but `rows` and `source_bytes` are means over the sampled rows.

    Attributes:
        rows: that are read; of a sampled source an estimate.
        source_bytes: of its files.
        turns: of a row.
        chars: of a row, all turns.
        answers: of a row.
        answer_chars: of a row, the assistant's turns.
        images: references of a row.
        distinct: images that a row adds to those of the rows before it.
        image_bytes: of an encoded image.
        shapes: width and height of some images.
        remote_images: whether images are fetched from an object store.
        embedded: whether images lie in the rows.
        tasks: rows by task.
        samples: some rows, for whoever counts tokens.
        root: of the image paths; None where they cannot be read here.
        notes: what was assumed.
    """

    rows: int
    source_bytes: int
    turns: float
    chars: float
    answers: float
    answer_chars: float
    images: float
    distinct: float
    image_bytes: float
    shapes: tuple[tuple[int, int], ...]
    remote_images: bool = False
    embedded: bool = False
    tasks: dict[str, int] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    root: ImageRoot | None = None
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> float:
        """Of an image."""
        return sum(width * height for width, height in self.shapes) / max(len(self.shapes), 1)

    def to_json(self) -> dict[str, Any]:
        """The numbers, without the sampled rows."""
        names = ("rows", "source_bytes", "turns", "chars", "answers", "answer_chars", "images", "distinct")
        values = {name: getattr(self, name) for name in (*names, "image_bytes", "pixels")}
        return {**values, "tasks": len(self.tasks), "sampled_rows": len(self.samples), "notes": list(self.notes)}


def read_source(config: IngestConfig, *, seed: int = 0) -> Source:
    """The facts of what `ingest` would read.

    Raises:
        UserError: a source that is not there, and settings that cannot read it; or no sampled row can be used.
    """
    reader = open_reader(config)
    config, notes = _without_lost_root(config)
    options = parse_options(config, reader)
    total = sum(file.size for file in reader.files)
    whole = total <= WHOLE_BYTES
    counted, taken = Counter[str](), list[Slice]()
    by_source = _files_by_source(config, reader)
    for name, files in by_source.items():
        counted[name], slices = _count(reader, files, whole, seed)
        most = max(1, MOST_SLICES // len(by_source))
        taken += slices if whole else random.Random(seed).sample(slices, min(len(slices), most))
    if not taken:
        reader.slices()  # raises: the source is empty
    each = None if whole else max(1, SAMPLED_ROWS // max(len(taken), 1))
    samples, refused = [], Counter[str]()
    for part in taken:
        for row in _first(reader.read(part), each):
            parsed = parse_row(row, options)
            if isinstance(parsed, Sample):
                samples.append(parsed)
            else:
                refused[str(parsed.reason)] += 1
    if whole:  # slices of JSON lines know an upper bound only
        counted = Counter(_source_of(config, sample.source_file) for sample in samples)
    if config.sources is not None:
        check_usable(config.sources, counted)
        samples, counted = _as_mixed(config, samples, counted, seed)
    rows = counted.total()
    if not samples:
        raise UserError(f"none of the sampled rows of {config.source} can be used: {dict(refused)}")
    if refused:
        notes.append(f"{sum(refused.values())} of {len(samples) + sum(refused.values())} sampled rows are rejected")
    if not whole:
        notes.append(f"{len(samples):,} rows of {len(taken)} slices were sampled; each image counts as a new one")
    if config.hash_range is not None:
        rows = round(rows * (config.hash_range[1] - config.hash_range[0]))
    root = _root_of(config.images)
    return facts_of(samples, rows=rows, source_bytes=total, root=root, whole=whole, notes=notes, seed=seed)


def read_samples(
    noun: Noun,
    manifest: Manifest,
    *,
    parts: int = MOST_PARTS,
    rows: int | None = None,
    images: int = SAMPLED_IMAGES,
    seed: int = 0,
) -> Source:
    """The facts of samples that are in a run: counts from the manifest, means from rows of some parts.

    Args:
        noun: the samples.
        manifest: theirs.
        parts: that are read, at most.
        rows: of each part, its first; default: all.
        images: whose headers are read, at most.
        seed: of the draw of parts and images.
    """
    config = manifest.description.get("config", {})
    drawn = random.Random(seed).sample(range(manifest.shards), min(manifest.shards, parts))
    tables = [noun.read_part(part) for part in sorted(drawn)]
    samples = [row_to_sample(row) for table in tables for row in table.slice(0, rows).to_pylist()]
    files = manifest.description.get("inputs", {}).get("files", [])
    size = sum(int(file[1]) for file in files if len(file) > 1 and isinstance(file[1], int))
    root = _root_of(config.get("images"))
    tasks = manifest.metrics.get("tasks")
    return facts_of(
        samples,
        rows=manifest.rows_out,
        source_bytes=size,
        root=root,
        whole=True,
        tasks=tasks,
        images=images,
        seed=seed,
    )


def facts_of(
    samples: Sequence[Sample],
    *,
    rows: int,
    source_bytes: int,
    root: ImageRoot | None,
    whole: bool,
    tasks: dict[str, int] | None = None,
    notes: Sequence[str] = (),
    images: int = SAMPLED_IMAGES,
    seed: int = 0,
) -> Source:
    """The means of some rows. `whole`: rows that share an image are all among them, so images can be told apart."""
    if not samples:
        raise UserError("there are no rows to look at")
    n = len(samples)
    notes = list(notes)
    references = [image for sample in samples for image in sample.images]
    distinct = len({image.identity for image in references}) if whole else len(references)
    drawn = random.Random(seed).sample(references, min(len(references), images))
    shapes, sizes, lost = _look_at(drawn, root)
    if lost:
        notes.append(
            f"{lost} of {len(drawn)} sampled images cannot be read here: taken as "
            f"{USUAL_SHAPE[0]} x {USUAL_SHAPE[1]} of {USUAL_BYTES:,} bytes"
        )
    answers = [message for sample in samples for message in sample.messages if message.role == "assistant"]
    counted = tasks or _scaled(Counter(sample.task for sample in samples), rows)
    kept = random.Random(seed).sample(list(samples), min(n, SAMPLED_ROWS))
    return Source(
        rows=rows,
        source_bytes=source_bytes,
        turns=sum(len(sample.messages) for sample in samples) / n,
        chars=sum(len(message.text) for sample in samples for message in sample.messages) / n,
        answers=len(answers) / n,
        answer_chars=sum(len(message.text) for message in answers) / n,
        images=len(references) / n,
        distinct=distinct / n,
        image_bytes=sum(sizes) / max(len(sizes), 1),
        shapes=tuple(shapes),
        remote_images=root is not None and "://" in (root.root or ""),
        embedded=any(image.data is not None for image in references),
        tasks=dict(counted),
        samples=tuple(kept),
        root=root,
        notes=tuple(notes),
    )


def _scaled(counts: Counter[str], rows: int) -> dict[str, int]:
    total = sum(counts.values())
    return {task: round(count * rows / total) for task, count in sorted(counts.items())}


def _source_of(config: IngestConfig, file: str) -> str:
    """The source of a mixture that a file is of; '' where there is one source."""
    return "" if config.sources is None else source_name(file)


def _files_by_source(config: IngestConfig, reader: Reader) -> dict[str, list[SourceFile]]:
    found: dict[str, list[SourceFile]] = {}
    for file in reader.files:
        found.setdefault(_source_of(config, file.name), []).append(file)
    return found


def _as_mixed(
    config: IngestConfig, samples: Sequence[Sample], counted: Counter[str], seed: int
) -> tuple[list[Sample], Counter[str]]:
    """Rows of each source in the shares of the mixture, as many as were sampled of the scarcest; and their counts."""
    assert config.sources is not None
    wanted = rows_of_sources(counted, *wishes_of(config.sources, counted))
    sampled: dict[str, list[Sample]] = {name: [] for name in wanted}
    for sample in samples:
        sampled[source_name(sample.source_file)].append(sample)
    part = min((len(sampled[name]) / count for name, count in wanted.items() if count), default=1.0)
    drawn = random.Random(seed)
    mixed = [
        sample
        for name, each in sampled.items()
        for sample in drawn.sample(each, min(len(each), round(min(1.0, part) * wanted[name])))
    ]
    return mixed, Counter(wanted)


def _count(reader: Reader, files: Sequence[SourceFile], whole: bool, seed: int) -> tuple[int, list[Slice]]:
    """Rows of the files of a source, and the slices of those that were cut."""
    total = sum(file.size for file in files)
    if not whole and len(files) > MOST_FILES:
        files = random.Random(seed).sample(files, MOST_FILES)
    slices = [part for file in files for part in reader.slice_file(file)]
    if not slices:
        return 0, []
    known = [part for part in slices if part.num_rows is not None]
    rows = sum(part.num_rows or 0 for part in known)
    if len(known) < len(slices):  # archives tell their rows only when they are read
        first = next(part for part in slices if part.num_rows is None)
        rows += sum(1 for _ in reader.read(first)) * (len(slices) - len(known))
    read = sum(file.size for file in files)
    return round(rows * total / max(read, 1)) if read else rows, slices


def _first(rows: Iterator[Any], count: int | None) -> Iterator[Any]:
    return itertools.islice(rows, count)


def _without_lost_root(config: IngestConfig) -> tuple[IngestConfig, list[str]]:
    """The settings without an image root that is not here: rows can be read all the same."""
    if config.images is None or _root_of(config.images) is not None:
        return config, []
    note = f"the image root {config.images} cannot be used here"
    return config.model_copy(update={"images": None}), [note]


def _root_of(images: str | None) -> ImageRoot | None:
    try:
        return ImageRoot.of(images)
    except UserError:
        return None


def _look_at(images: Sequence[ImageRef], root: ImageRoot | None) -> tuple[list[tuple[int, int]], list[int], int]:
    """Shapes and encoded bytes of images, and how many could not be read."""
    shapes, sizes, lost = [], [], 0
    for image in images:
        try:
            data = (root or ImageRoot(None)).read(image)
            with Image.open(io.BytesIO(data)) as opened:  # the header alone: no pixel is decoded
                shapes.append(opened.size)
            sizes.append(len(data))
        except (FaultError, OSError, ValueError, Image.DecompressionBombError):
            shapes.append(USUAL_SHAPE)
            sizes.append(USUAL_BYTES)
            lost += 1
    return shapes, sizes, lost
