"""How the settings of `ingest` read a source: what a reader is told, and what a row's parser is told."""

from __future__ import annotations

from raycurate.config import IngestConfig
from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions
from raycurate.samples.parse_task import folders_are_tasks
from raycurate.samples.rows import Reader, ReadOptions
from raycurate.samples.tasks import load_task_map


def read_options(config: IngestConfig) -> ReadOptions:
    """How a source is read for these settings."""
    named = (config.columns or {}).values()
    return ReadOptions(
        slice_rows=config.slice_rows,
        max_image_bytes=config.max_image_bytes,
        split=config.split,
        columns=(*named, *(config.keep or ()), *([config.task_column] if config.task_column else ())),
        any_table=bool(config.columns or config.row_function),
        every_column=config.row_function is not None,
    )


def parse_options(config: IngestConfig, reader: Reader) -> ParseOptions:
    """How a row of this source is parsed. Raises `UserError` for a task map or an image root that cannot be used."""
    return ParseOptions(
        task_column=config.task_column,
        task_map=load_task_map(config.task_map) if config.task_map else None,
        folder_tasks=folders_are_tasks(file.name for file in reader.files),
        columns=config.columns or {},
        keep=config.keep or (),
        row_function=config.row_function,
        insert_missing_marks=config.insert_missing_marks,
        drop_leading_answer=config.drop_leading_answer,
        image_root=ImageRoot.of(config.images).root,
        max_turns=config.max_turns,
        max_chars=config.max_chars,
        max_images=config.max_images,
    )
