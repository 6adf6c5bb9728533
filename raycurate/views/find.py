"""Find a row by its key or by the source's own id, among the samples and among what was refused.

Cost: one pass over keys, ids and tasks of the samples, about 60 bytes a row; one shard in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycurate.errors import UserError
from raycurate.run.filesystem import list_files
from raycurate.run.store import Noun, Run

MOST = 20
"""Rows of one source id that are told apart in a message."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies.

    Attributes:
        key: of the row; None for one that was refused before it had one.
        shard: of the samples; -1 for a refused row.
        refused: the quarantine's row, None for a sample.
        task: of a sample.
    """

    key: str | None
    shard: int
    refused: dict[str, Any] | None = None
    task: str = ""


def find_row(run: Run, name: str, label: str = "main") -> Place:
    """The row of this key or source id.

    Raises:
        UserError: no such row, or several with this id; no samples.
    """
    noun = run.noun("samples", label)
    made = noun.manifest() is not None
    found = [*(_samples(noun, name) if made else ()), *_refused(noun, name)]
    if not found and not made:
        noun.require("ingest")
    if not found:
        raise UserError(
            f"no row of samples/{label} has the key or the id '{name}'. Keys are the first column of "
            f"`raycurate show {run.uri}`; ids are those of the source"
        )
    if len(found) > 1:
        named = ", ".join(_told(each) for each in found[:MOST])
        raise UserError(f"{len(found)} rows have the id '{name}'; name one by its key: {named}")
    return found[0]


def _told(place: Place) -> str:
    """The key of a row and its task; where one was refused before it had a key, all that is known of it."""
    gone = place.refused
    if gone is None:
        return f"{place.key} (of {place.task})"
    if place.key is not None:
        return f"{place.key} (refused: {gone['reason']})"
    return f"{gone['source_file']}, row {gone['source_row']}, was refused ({gone['reason']}: {gone['detail']})"


def _samples(noun: Noun, name: str) -> Iterator[Place]:
    for shard, rows in enumerate(noun.iter_parts(["key", "source_id", "task"])):
        for row in rows.filter(_matches(rows, name)).to_pylist():
            yield Place(row["key"], shard, task=row["task"])


def _refused(noun: Noun, name: str) -> Iterator[Place]:
    for rows in refused_parts(noun):
        for row in rows.filter(_matches(rows, name)).to_pylist():
            yield Place(row["key"], -1, row)


def refused_parts(noun: Noun) -> Iterator[pa.Table]:
    """The quarantine of a noun, a part at a time."""
    for info in list_files(noun.filesystem, noun.quarantine_folder, ".parquet"):
        with pq.ParquetFile(info.path, filesystem=noun.filesystem) as part:
            yield part.read()


def _matches(rows: pa.Table, name: str) -> pa.ChunkedArray:
    by_id, by_key = (pc.fill_null(pc.equal(rows[column], name), False) for column in ("source_id", "key"))
    return pc.or_(by_key, by_id)


def row_of(noun: Noun, key: str, shard: int | None = None) -> dict[str, Any] | None:
    """The row of a key as plain values; None where there is none. A shard that is known saves the search."""
    manifest = noun.manifest()
    if manifest is None:
        return None
    shards = range(manifest.shards) if shard is None or shard >= manifest.shards else [shard]
    for number in shards:
        keys = noun.read_part(number, ["key"])["key"]
        place = pc.index(keys, key).as_py()
        if place >= 0:
            return dict(noun.read_part(number).slice(place, 1).to_pylist()[0])
    return None
