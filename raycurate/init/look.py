"""A first look at a dataset: how many rows, which tasks, how long, how many images, what cannot be read.

Rows are parsed by the readers and rules of `ingest`. Parquet and Arrow say their number of rows; JSON and tar files up
to `ALL_BYTES` are read whole. Of larger ones the first `HEAD_BYTES` of up to `HEADS` files are read, and the number of
rows is the bytes of all over the bytes of one: an estimate, off where files or their beginnings differ from the rest.
Cost: seconds; memory of one head. Images are not opened: whether the first ones are there is all that is asked.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.run.paths import image_roots
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.parse_task import folders_are_tasks
from raycurate.samples.quarantine import Reject
from raycurate.samples.read_arrow import HuggingFaceReader, ParquetReader
from raycurate.samples.read_json import JsonReader
from raycurate.samples.read_tar import WebDatasetReader
from raycurate.samples.readers import open_source
from raycurate.samples.rows import RawRow, Reader, ReadOptions, SourceFile
from raycurate.samples.schema import Sample
from raycurate.samples.sources import open_file
from raycurate.samples.tasks import UNKNOWN_TASK, load_task_map, shipped_task_maps

ALL_BYTES = 32 << 20
HEAD_BYTES, HEADS = 8 << 20, 4
MOST_ROWS = 50_000
"""Rows that are parsed, at most."""
KINDS = {JsonReader: "JSON", ParquetReader: "Parquet", HuggingFaceReader: "Arrow", WebDatasetReader: "tar"}
Cuttable = JsonReader | WebDatasetReader
"""Readers of files of which a beginning can be read alone."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a dataset found.

    Attributes:
        rows: of the dataset.
        counted: they were counted; else they are an estimate.
        parsed: rows that were parsed; what follows is of these.
        tasks: rows by task.
        rejects: rows that cannot be used, by reason.
        first_reject: the first of them, in words; '' for none.
        images: images of all parsed rows.
        characters: of a row, on average.
        kind: of the files, in a word.
        size: bytes of the files.
        task_map: the shipped one by which tasks were found; None where rows say theirs, or nothing does.
        image_paths: the first few.
    """

    rows: int
    counted: bool
    parsed: int
    tasks: dict[str, int]
    rejects: dict[str, int]
    first_reject: str
    images: int
    characters: float
    kind: str
    size: int
    task_map: str | None
    image_paths: tuple[str, ...]

    @property
    def usable(self) -> int:
        """Rows of the dataset that `ingest` will take, by the part of the parsed ones."""
        return round(self.rows * sum(self.tasks.values()) / self.parsed)


def look_at(config: IngestConfig) -> Look:
    """Look at a source with the settings of `ingest`.

    Raises:
        UserError: a source that is not there or cannot be read, or of whose first rows none can be used.
    """
    named = (config.columns or {}).values()
    options = ReadOptions(columns=tuple(named), any_table=bool(config.columns))
    reader = open_source(config.source, config.format, options=options)
    rows, counted, raw = _rows_of(reader)
    task_map = config.task_map
    parsed = [parse_row(row, _rules(reader, config, task_map)) for row in raw]
    samples, rejects = _split(parsed)
    if not samples:
        why = f": {rejects[0]}" if rejects else ""
        raise UserError(f"no row of the first {len(parsed):,} of {config.source} can be used{why}. Is --format right?")
    if task_map is None and {sample.task for sample in samples} == {UNKNOWN_TASK}:
        task_map, samples = _by_shipped_maps(reader, config, raw, samples)
    paths = (image.path for sample in samples for image in sample.images if image.path is not None)
    return Look(
        rows=rows,
        counted=counted,
        parsed=len(parsed),
        tasks=dict(Counter(sample.task for sample in samples).most_common()),
        rejects=dict(Counter(str(reject.reason) for reject in rejects).most_common()),
        first_reject=str(rejects[0]) if rejects else "",
        images=sum(len(sample.images) for sample in samples),
        characters=sum(len(m.text) for sample in samples for m in sample.messages) / len(samples),
        kind=KINDS.get(type(reader), "several"),  # type: ignore[arg-type]
        size=sum(file.size for file in reader.files),
        task_map=task_map,
        image_paths=tuple(itertools.islice(paths, 20)),
    )


def find_images(look: Look, source: str, given: str | None) -> tuple[str | None, bool]:
    """The folder that the image paths start from, and whether the first images lie there.

    Args:
        look: at the data.
        source: the data, as `ingest` has it.
        given: by the user; None: the folder of the data, or `images` in it, if the first images are there.
    """
    if not look.image_paths:
        return given, True
    beside = source if os.path.isdir(source) else posixpath.dirname(source)
    for root in (given,) if given is not None else (beside, f"{beside}/images"):
        if all(os.path.isfile(os.path.join(image_roots(root)[0], path)) for path in look.image_paths):
            return root, True
    return given, False


def _rules(reader: Reader, config: IngestConfig, task_map: str | None) -> ParseOptions:
    roots = image_roots(config.images)
    return ParseOptions(
        task_map=None if task_map is None else load_task_map(task_map),
        folder_tasks=folders_are_tasks(file.name for file in reader.files),
        columns=config.columns or {},
        image_root=roots[0] if roots else None,
        image_links=tuple(roots[1:]),
    )


def _split(parsed: list[Sample | Reject]) -> tuple[list[Sample], list[Reject]]:
    samples = [row for row in parsed if isinstance(row, Sample)]
    return samples, [row for row in parsed if isinstance(row, Reject)]


def _by_shipped_maps(
    reader: Reader, config: IngestConfig, raw: list[RawRow], samples: list[Sample]
) -> tuple[str | None, list[Sample]]:
    """The first shipped task map that knows most rows, and the rows with their tasks; as they were for none."""
    for name in shipped_task_maps():
        named, _ = _split([parse_row(row, _rules(reader, config, name)) for row in raw])
        if 2 * sum(sample.task != UNKNOWN_TASK for sample in named) > len(named):
            return name, named
    return None, samples


def _rows_of(reader: Reader) -> tuple[int, bool, list[RawRow]]:
    """Rows of a source, whether they were counted, and the first of them (of several files)."""
    size = sum(file.size for file in reader.files)
    if isinstance(reader, Cuttable) and size > ALL_BYTES:
        return _rows_of_heads(reader, size)
    if size <= ALL_BYTES:
        rows = [row for part in reader.slices() for row in reader.read(part)]
        return len(rows), True, rows[:MOST_ROWS]
    parts = reader.slices()
    first = itertools.islice((row for part in parts for row in reader.read(part)), MOST_ROWS // 10)
    return sum(part.num_rows or 0 for part in parts), True, list(first)


def _rows_of_heads(reader: Cuttable, size: int) -> tuple[int, bool, list[RawRow]]:
    """An estimate from the beginnings of a few files, evenly spread over the source."""
    step = max(1, len(reader.files) // HEADS)
    rows: list[RawRow] = []
    read = 0
    for file in reader.files[::step][:HEADS]:
        with tempfile.NamedTemporaryFile(suffix=os.path.basename(file.name)) as head:
            with open_file(file.uri) as stream:
                head.write(stream.read(HEAD_BYTES))
            head.flush()
            length = min(file.size, HEAD_BYTES)
            cut = replace(reader, files=(SourceFile(file.name, head.name, length),))
            found = list(_whole_rows(cut, is_cut=length < file.size))
        rows += found
        read += length
    if not rows:
        raise UserError(f"no row ends in the first {HEAD_BYTES >> 20} MiB of {reader.files[0].uri}")
    return round(len(rows) * size / read), False, rows[:MOST_ROWS]


def _whole_rows(reader: Cuttable, *, is_cut: bool) -> Iterator[RawRow]:
    """The rows of one file, without the last where the file was cut there."""
    held: RawRow | None = None
    for row in (row for part in reader.slices() for row in reader.read(part)):
        if held is not None:
            yield held
        held = row
    if held is not None and not is_cut:
        yield held
