"""How the settings of `ingest` read a source: what a reader is told, and what a row's parser is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raycurate.config import IngestConfig, SourceConfig
from raycurate.samples.images import ImageRoot
from raycurate.samples.mixture import MixtureReader, Part, named_under
from raycurate.samples.parse import ParseOptions
from raycurate.samples.parse_task import TASK, folders_are_tasks
from raycurate.samples.readers import left_out, open_source
from raycurate.samples.rows import Reader, ReadOptions
from raycurate.samples.tasks import load_task_map
from raycurate.samples.videos import MAX_BYTES, VideoOptions, need_decoder

VIDEO_SLICE_ROWS = 64
"""Of a source with videos, that one task reads: each takes as long as hundreds of other rows."""


def read_options(config: IngestConfig) -> ReadOptions:
    """How a source is read for these settings."""
    named = (config.columns or {}).values()
    return ReadOptions(
        slice_rows=min(config.slice_rows, VIDEO_SLICE_ROWS) if config.video_frames else config.slice_rows,
        max_image_bytes=config.max_image_bytes,
        max_video_bytes=_max_video_bytes(config) if config.video_frames else None,
        split=config.split,
        columns=(*named, *(config.keep or ()), *([config.task_column] if config.task_column else ())),
        any_table=bool(config.columns or config.row_function),
        every_column=config.row_function is not None,
    )


def open_reader(config: IngestConfig) -> Reader:
    """The reader of a source, or of several as a mixture. Raises `UserError` for one that cannot be opened."""
    options = read_options(config)
    if config.sources is None:
        return open_source(config.source, config.format, options=options)
    parts = [_part(name, source, options) for name, source in config.sources.items()]
    return MixtureReader(tuple(parts), config.task_column or TASK)


def _part(name: str, source: SourceConfig, options: ReadOptions) -> Part:
    columns = source.columns or {}
    own = replace(
        options,
        columns=(*options.columns, *columns.values()),
        any_table=options.any_table or source.columns is not None,
    )
    reader = open_source(source.path, source.format, options=own)
    return Part(name, named_under(reader, name), source.task, source.root.strip("/"), columns)


def unread_files(config: IngestConfig, reader: Reader) -> list[str]:
    """What to say of the files of a source, or of each of a mixture, that are not read."""
    if config.sources is None or not isinstance(reader, MixtureReader):
        return left_out(config.source, reader)
    parts = {part.name: part.reader for part in reader.parts}
    return [f"{name}: {line}" for name, each in config.sources.items() for line in left_out(each.path, parts[name])]


def _max_video_bytes(config: IngestConfig) -> int:
    return MAX_BYTES if config.video_max_mb is None else config.video_max_mb << 20


def video_options(config: IngestConfig, root: ImageRoot) -> VideoOptions:
    """How videos are read. Raises `UserError` where the decoder is not installed."""
    need_decoder()
    assert config.video_frames is not None
    asked: dict[str, Any] = {
        "max_bytes": _max_video_bytes(config),
        "max_seconds": config.video_max_seconds,
        "max_side": config.video_max_side,
    }
    bounds = VideoOptions(frames=config.video_frames, root=root, max_pixels=config.max_pixels)
    return replace(bounds, **{name: value for name, value in asked.items() if value is not None})


def parse_options(config: IngestConfig, reader: Reader) -> ParseOptions:
    """How a row of this source is parsed. Raises `UserError` for a task map or an image root that cannot be used."""
    root = ImageRoot.of(config.images)
    return ParseOptions(
        task_column=config.task_column,
        task_map=load_task_map(config.task_map) if config.task_map else None,
        folder_tasks=folders_are_tasks(file.name for file in reader.files),
        columns=config.columns or {},
        keep=config.keep or (),
        row_function=config.row_function,
        insert_missing_marks=config.insert_missing_marks,
        drop_leading_answer=config.drop_leading_answer,
        image_root=root.root,
        image_links=root.links,
        video=video_options(config, root) if config.video_frames else None,
        max_turns=config.max_turns,
        max_chars=config.max_chars,
        max_images=config.max_images,
    )
