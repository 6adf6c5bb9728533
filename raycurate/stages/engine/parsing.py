"""The first half of `ingest`: slices of a source, parsed and bucketed by the hash of their first images.

A slice is a run of source rows that one task reads. Its good rows go to files of buckets, its rejects to one table;
what is known of both comes back. A slice that is done is not read again.

Cost: the source is read once; memory of a task is one row of its slice and `PIECE_BYTES` of good rows.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.run.progress import Progress
from raycurate.run.store import Noun
from raycurate.samples.extras import kinds_of, merge_kinds
from raycurate.samples.forgotten import Forgotten
from raycurate.samples.mixture import draws_of, source_name
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reject, rejects_to_table
from raycurate.samples.rows import Reader, Slice, SourceFile
from raycurate.samples.schema import Sample, samples_to_table
from raycurate.samples.unread import UnreadColumns
from raycurate.stages.engine.mixed import has_bound, write_draws
from raycurate.stages.engine.shards import map_tasks, resumable_steps, step_name
from raycurate.stages.engine.shuffle import write_bucket_file

PIECE_BYTES = 64 << 20
"""Of texts and images in one file of buckets."""
MANY_ROWS = 1000
"""Rows of which not one can be used are enough to stop."""


@dataclass(slots=True)
class Parsed:
    """What came of parsing a source.

    Attributes:
        rows_B: good rows of each bucket.
        uris: the bucketed files.
        rejects: rejected rows by slice.
        outside: rows out of `hash_range`.
        unread: rows by column that no rule reads.
        tasks_from: rows by what said their task.
        kept: kind by column that is kept beside the rows.
        reasons: rejected rows by reason.
        sources: good rows by source of a mixture.
        rejects_of: rejected rows by source of a mixture.
        draws: source of a mixture -> slices with the hashes of its rows.
    """

    rows_B: np.ndarray
    uris: list[str] = field(default_factory=list)
    rejects: dict[int, int] = field(default_factory=dict)
    outside: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    tasks_from: Counter[str] = field(default_factory=Counter)
    kept: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    rejects_of: Counter[str] = field(default_factory=Counter)
    draws: dict[str, list[int]] = field(default_factory=dict)

    def check_first_rows(self, first_reject: str, max_rejected: float) -> None:
        """Raise `UserError` where many rows were read and all are rejected for one reason: why read the others?"""
        if self.outside or max_rejected >= 1 or len(self.reasons) != 1 or self.rows_B.any():
            return
        ((reason, rows),) = self.reasons.items()
        if rows >= MANY_ROWS:
            raise UserError(
                f"all of the first {rows:,} rows were rejected for '{reason}': {first_reject}. Nothing further was "
                "read. Is the format right, and the source one of conversations? If these rows may go, add "
                "`--set max_rejected=1`."
            )


def parse(noun: Noun, reader: Reader, options: ParseOptions, config: IngestConfig) -> Parsed:
    """Parse every slice of a source.

    Raises:
        UserError: a source without rows, or one of which nothing can be used.
    """
    numbered = list(enumerate(reader.files))

    def slices_of(number: int, file: SourceFile) -> tuple[int, list[Slice], list[str]]:
        return number, reader.slice_file(file), reader.unread_columns(file)

    cut = map_tasks(slices_of, numbered, num_cpus=0.5, max_tasks=config.max_tasks)
    by_file = {number: (parts, unread) for number, parts, unread in cut}
    slices = [(part,) for number, _ in numbered for part in by_file[number][0]]
    if not slices:
        reader.slices()  # raises the error that names the empty source
    parsed = Parsed(np.zeros(config.buckets, dtype=np.int64))
    for parts, unread in by_file.values():
        parsed.unread.update(dict.fromkeys(unread, sum(part.num_rows or 0 for part in parts)))
    work = functools.partial(_parse_slice, noun, reader, options, config)
    with Progress("read", len(slices), "slices", noun=noun) as progress:
        for number, result in resumable_steps(noun, "parsed", work, slices, max_tasks=config.max_tasks):
            progress.advance()
            parsed.outside += result["outside"]
            parsed.unread.update(result["unread"])
            parsed.tasks_from.update(result["tasks_from"])
            merge_kinds(parsed.kept, result["kept"])
            parsed.reasons.update(result["reasons"])
            if config.sources is not None:
                name = source_name(slices[number][0].file)
                parsed.sources[name] += result["rows"]
                parsed.rejects_of[name] += result["rejects"]
                parsed.draws.setdefault(name, []).append(number)
            for piece in result["pieces"]:
                parsed.rows_B[piece["buckets"]] += piece["rows"]
                parsed.uris.append(piece["uri"])
            if result["rejects"]:
                parsed.rejects[number] = result["rejects"]
                parsed.check_first_rows(result["first_reject"], config.max_rejected)
                if config.strict:
                    raise UserError(f"--strict: {result['first_reject']}. Fix the row, or run without --strict.")
    if not parsed.uris:  # a shuffle of no rows still has one file
        uri = noun.uri_of(step_name("parsed", 0, "none.arrow"))
        write_bucket_file(uri, samples_to_table([]), np.zeros(0, dtype=np.int64))
        parsed.uris.append(uri)
    parsed.uris.sort()
    return parsed


def _parse_slice(
    noun: Noun, reader: Reader, options: ParseOptions, config: IngestConfig, number: int, part: Slice
) -> dict[str, Any]:
    """Task: one slice, parsed and bucketed, in pieces of bounded size."""
    pieces: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    samples: list[Sample] = []
    size = outside = rows = 0
    is_drawn = has_bound(config, part.file)
    draws: list[np.ndarray] = []
    unread = UnreadColumns([*options.keep, *([options.task_column] if options.task_column else [])], options.columns)
    tasks_from: Counter[str] = Counter()
    kept: dict[str, str] = {}
    forgotten = Forgotten.of(noun.run_uri)

    def flush() -> None:
        nonlocal size, rows
        uri = noun.uri_of(step_name("parsed", number, f"{len(pieces):03d}.arrow"))
        table = samples_to_table(samples)
        merge_kinds(kept, kinds_of(table["extra"].to_pylist()))
        bucket_N = np.array([_bucket(order, config.buckets) for order in table["order"].to_pylist()], dtype=np.int64)
        buckets, rows_B = write_bucket_file(uri, table, bucket_N)
        pieces.append({"uri": uri, "buckets": buckets.tolist(), "rows": rows_B.tolist()})
        rows += table.num_rows
        if is_drawn:
            draws.append(draws_of(table["key"].to_pylist()))
        samples.clear()
        size = 0

    for raw in reader.read(part):
        if options.row_function is None:
            unread.count(raw.value)
        parsed = forgotten.without(parse_row(raw, options))
        if isinstance(parsed, Reject):
            rejects.append(parsed)
            continue
        if config.hash_range is not None and not _within(parsed.order, config.hash_range):
            outside += 1
            continue
        samples.append(parsed)
        tasks_from[parsed.task_from or "nothing"] += 1
        size += sum(len(m.text) for m in parsed.messages) + sum(len(i.data or b"") for i in parsed.images)
        if size >= PIECE_BYTES:
            flush()
    if samples:
        flush()
    if rejects:
        table = rejects_to_table(rejects)
        noun.write_table(step_name("parsed", number, "rejects.parquet"), table)
    if is_drawn:
        write_draws(noun, number, draws)
    return {
        "pieces": pieces,
        "rows": rows,
        "rejects": len(rejects),
        "first_reject": str(rejects[0]) if rejects else "",
        "reasons": dict(Counter(str(reject.reason) for reject in rejects)),
        "outside": outside,
        "unread": dict(unread.rows),
        "tasks_from": dict(tasks_from),
        "kept": kept,
    }


def _within(order: bytes, hash_range: tuple[float, float]) -> bool:
    """Whether a sort hash, as a part of the largest, lies in [low, high)."""
    low, high = hash_range
    largest = 1 << (8 * len(order))
    return low * largest <= int.from_bytes(order, "big") < high * largest


def _bucket(order: bytes, buckets: int) -> int:
    """The bucket of a sort hash: ascending with the hash."""
    return int.from_bytes(order, "big") * buckets >> (8 * len(order))
