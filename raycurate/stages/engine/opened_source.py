"""The source of `ingest` before its rows are read: its files, how rows are read, and by what it is known."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from raycurate.config import IngestConfig
from raycurate.plugins import find_plugin, source_hash
from raycurate.run.store import Noun
from raycurate.samples.forgotten import Forgotten
from raycurate.samples.mixture import MixtureReader
from raycurate.samples.opening import open_reader, parse_options
from raycurate.samples.parse import ParseOptions
from raycurate.samples.read_indexed import IndexedReader
from raycurate.samples.rows import Reader
from raycurate.stages.engine.shards import describe, map_tasks
from raycurate.stages.engine.source_check import FileState, states_now


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source before its rows are read.

    Attributes:
        reader: of its files.
        parse: how a row is read.
        states: of the files.
        description: of the samples that it makes, but for what is known of images only when they were read.
    """

    reader: Reader
    parse: ParseOptions
    states: list[FileState]
    description: dict[str, Any]


def open_and_hash(noun: Noun, config: IngestConfig) -> OpenedSource:
    """Open a source, and hash those of its files that `noun` does not know."""
    reader = open_reader(config)
    parse = parse_options(config, reader)
    rules = parse.task_map.model_dump(mode="json") if parse.task_map else None
    tasks = functools.partial(map_tasks, num_cpus=0.5, max_tasks=config.max_tasks)
    states = states_now(noun, [file.uri for file in reader.files], tasks)
    facts = [[file.name, state.size, state.fact] for file, state in zip(reader.files, states, strict=True)]
    inputs: dict[str, Any] = {"files": facts, "task_map": rules, **Forgotten.of(noun.run_uri).fact}
    if isinstance(reader, IndexedReader) or (isinstance(reader, MixtureReader) and reader.facts):
        inputs["index"] = reader.facts
    if config.row_function is not None:
        find_plugin("row function", config.row_function, {})
        inputs["row_function"] = source_hash(config.row_function)
    return OpenedSource(reader, parse, states, describe("ingest", config, inputs))
