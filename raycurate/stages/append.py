"""``ingest --append``: more rows for samples that are there, as new shards behind theirs.

    MORE --ingest--> samples/LABEL+HASH (the piece) --taken over by shard--> samples/LABEL, shards S, S+1, ...

The piece is read as any source is, as samples of its own, and resumes as they do: until all its rows are there the
samples are as they were, and a source that cannot be used never touches them. Then ``append.json`` says what is taken
over, the samples are unpublished, each part of the piece becomes a shard behind theirs, and they are published again
with the piece in their description (`engine/growth.py`). After a kill on the way the next ingest goes on.

A row that is an exact copy of one that is there gets the next occurrence number, as if both had been read at once: the
rows and their keys are those of one ingest of all sources. Which shard a row lies in is not, and neither is which of
several copies has which number, unless the pieces come in the order of their files' names.

Cost: the new rows are written once more; of the old ones the keys are read that lie in row groups whose hashes meet
those of a new shard, once per new shard. Memory: one part.
"""

from __future__ import annotations

import functools
import logging
import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.run.filesystem import exists
from raycurate.run.manifest import Manifest, ShardRecord, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.samples.extras import merge_kinds
from raycurate.samples.schema import QUARANTINE_SCHEMA
from raycurate.samples.shard import content_of, number_behind
from raycurate.stages.engine.growth import pieces_of, with_pieces
from raycurate.stages.engine.image_check import seen_file
from raycurate.stages.engine.shards import count_record, map_tasks, stage_progress
from raycurate.stages.engine.source_check import note_states, noted_states

APPEND_FILE = "append.json"
"""Beside samples while a piece is taken over."""
SAME_FOR_ALL = ("images", "max_pixels", "max_image_bytes")
"""Settings that the stages behind ask the samples for, whatever row they read."""
log = logging.getLogger("raycurate")


def piece_config(standing: Manifest, config: IngestConfig) -> IngestConfig:
    """The settings with which MORE becomes samples of its own.

    Raises:
        UserError: a setting that must be that of the samples, and is not.
    """
    first = standing.description["config"]
    changes: dict[str, Any] = {"append": False}
    if config.images is None:
        changes["images"] = first.get("images")
    config = config.model_copy(update=changes)
    for name in SAME_FOR_ALL:
        if getattr(config, name) != first.get(name):
            raise UserError(
                f"{name} is {first.get(name)} for 'samples/{standing.label}' and {getattr(config, name)} for what is "
                "appended; every stage that reads them takes one value for all rows. Give the same, or ingest all "
                "sources anew with one value (for images: a folder that holds both)."
            )
    label = f"{standing.label}+{fingerprint_of(config.determining())[:8]}"
    return config.model_copy(update={"label": label})


def is_in(standing: Manifest, description: Mapping[str, Any]) -> bool:
    """Whether samples hold a source already: the same files, read with the same settings."""
    return any(
        _source_of(piece) == _source_of(description)
        for piece in (standing.description, *pieces_of(standing.description))
    )


def _source_of(description: Mapping[str, Any]) -> str:
    inputs = {name: value for name, value in description["inputs"].items() if name not in ("images", "forgotten")}
    return fingerprint_of({"config": description["config"], "inputs": inputs})


def keep_appended(noun: Noun, config: IngestConfig) -> None:
    """Refuse to make samples again that were appended to: only the source that they began with would be read.

    Raises:
        UserError: such samples, without `replace`.
    """
    manifest = noun.manifest()
    pieces = [] if manifest is None else pieces_of(manifest.description)
    if manifest is not None and pieces and not config.replace:
        sources = ", ".join(str(piece["config"]["source"]) for piece in pieces)
        raise UserError(
            f"'samples/{noun.label}' would be made again, as its source files, images or settings have changed, and "
            f"would lose what was appended ({sources}). Give new rows with --append, or say --replace and append "
            "the others again."
        )


def settle(run: Run, noun: Noun) -> None:
    """Finish an append that was cut off while its piece was taken over."""
    if noun.read_json(APPEND_FILE) is not None:
        log.warning("samples/%s: an append was cut off; going on with it", noun.label)
        _take_over(run, noun)


def take_over(run: Run, noun: Noun, piece: Noun) -> Manifest:
    """Add finished samples to others, behind their shards; the others' manifest."""
    standing, added = noun.require("ingest"), piece.require("ingest")
    entry = {
        "stage_version": added.description["stage_version"],
        "config": added.description["config"],
        "inputs": added.description["inputs"],
        "rows": added.rows_out,
    }
    noun.write_json(
        APPEND_FILE,
        {
            "piece": piece.label,
            "shards": [standing.shards, standing.shards + added.shards],
            "rows": added.rows_in,
            "description": with_pieces(standing.description, [*pieces_of(standing.description), entry]),
            "metrics": _metrics(*_by_source(standing, added)),
        },
    )
    return _take_over(run, noun)


def _by_source(*manifests: Manifest) -> list[Mapping[str, Any]]:
    """The counts of samples, with those of a single source under its file's name where others are a mixture."""
    if not any("sources" in each.metrics for each in manifests):
        return [each.metrics for each in manifests]
    names = [posixpath.basename(each.description["config"]["source"].rstrip("/")) for each in manifests]
    return [{"sources": {name: each.rows_out}, **each.metrics} for name, each in zip(names, manifests, strict=True)]


def _metrics(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of both added up."""
    total: dict[str, Any] = {}
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if name == "kept_columns":
            total[name] = dict(a or {})
            merge_kinds(total[name], b or {})
        elif isinstance(a, Mapping) or isinstance(b, Mapping):
            total[name] = dict(sorted((Counter(a) + Counter(b)).items()))
        else:
            total[name] = (a or 0) + (b or 0)
    return total


def _take_over(run: Run, noun: Noun) -> Manifest:
    todo = noun.read_json(APPEND_FILE)
    assert todo is not None, "take_over() wrote it"
    piece = run.noun("samples", todo["piece"])
    done = noun.manifest()
    if done is None or done.fingerprint != fingerprint_of(todo["description"]):
        first, stop = todo["shards"]
        noun.extend(todo["description"])
        states = noted_states(noun) | noted_states(piece)
        note_states(noun, list(states.values()))
        adopt = functools.partial(_adopt_shard, noun, piece, first)
        with stage_progress("append", noun, sum(r.rows_in for r in noun.records().values()) + todo["rows"]) as progress:
            for record in map_tasks(adopt, ((shard,) for shard in noun.missing(stop)), num_cpus=0.5):
                count_record(progress, record, strict=False)
        copies = sum(r.extra.get("copies", 0) for r in noun.records().values() if r.shard >= first)
        if copies:
            log.warning(
                "append: %d of the new rows are exact copies of rows that were there; they are kept, with keys of "
                "their own, and `raycurate dedup` marks them",
                copies,
            )
        done = noun.finish(metrics=todo["metrics"])
    piece.clear()
    noun.filesystem.delete_file(f"{noun.folder}/{APPEND_FILE}")
    return done


def _adopt_shard(noun: Noun, piece: Noun, first: int, shard: int) -> ShardRecord:
    """Task: one part of the piece as a shard of the samples."""
    own = shard - first
    table = piece.read_part(own)
    record = next(record for record in piece.iter_records() if record.shard == own)
    known = _last_occurrences(noun, first, table)
    table = number_behind(table, known)
    name = seen_file(own)
    if exists(piece.filesystem, f"{piece.folder}/{name}"):
        noun.write_table(seen_file(shard), piece.read_table(name))
    path = f"{piece.quarantine_folder}/part-{own:05d}.parquet"
    rejects = QUARANTINE_SCHEMA.empty_table()
    if exists(piece.filesystem, path):
        rejects = pq.read_table(path, filesystem=piece.filesystem)
    copies = pc.sum(pc.is_in(content_of(table["key"]), value_set=pa.array(list(known), pa.string()))).as_py() or 0
    return noun.commit_part(
        shard,
        table,
        rows_in=record.rows_in,
        rejects=rejects,
        row_group_rows=256,
        extra={**record.extra, "copies": copies},
    )


def _last_occurrences(noun: Noun, shards: int, table: pa.Table) -> dict[str, int]:
    """Of the contents of a table that samples hold already, the highest occurrence number."""
    last: dict[str, int] = {}
    if not table.num_rows:
        return last
    contents = content_of(table["key"])
    order = table["order"].to_pylist()
    low, high = min(order), max(order)
    for shard in range(shards):
        with pq.ParquetFile(noun.part_path(shard), filesystem=noun.filesystem) as part:
            groups = [
                group for group in range(part.num_row_groups) if _meets(part.metadata.row_group(group), low, high)
            ]
            keys = part.read_row_groups(groups, ["key"])["key"]
        here = pc.is_in(content_of(keys), value_set=contents)
        for key in keys.filter(here).to_pylist():
            content, _, occurrence = key.rpartition("-")
            last[content] = max(last.get(content, 0), int(occurrence))
    return last


def _meets(group: Any, low: bytes, high: bytes) -> bool:
    """Whether a row group may hold hashes from ``low`` to ``high``."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "order":
            statistics = column.statistics
            return (
                statistics is None or not statistics.has_min_max or (statistics.min <= high and statistics.max >= low)
            )
    return True
