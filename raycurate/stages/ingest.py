"""``ingest``: a source in any supported format -> the ``samples`` noun in canonical order, and a quarantine.

    source --slice--> parse --bucketed by image hash--> gather per shard: number duplicates, check images, commit

A slice is a run of source rows that one task reads and parses. Good rows are routed by the hash of their first image,
so a shard holds the same rows whatever files, slices or workers they came through, rows of one image lie side by side,
and exact duplicates meet in one shard, where they are numbered. Each distinct image is decoded once per shard.

Every source row ends in exactly one place: in ``samples`` or in the quarantine with its reason and position. Rejects of
the parsing step are handed to shards round-robin, so that the shard records alone add up to the source.

With ``append`` the rows become shards behind those that are there (`stages/append.py`).

Cost: the source is read once more to know its content; texts and embedded images are written twice and read once more;
one decode per distinct image.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.estimate.formulas import ingest_work
from raycurate.estimate.rates import Rates
from raycurate.estimate.source import facts_of
from raycurate.estimate.work import Work
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import delete_folder
from raycurate.run.progress import Progress
from raycurate.run.store import Manifest, Noun, Run, ShardRecord
from raycurate.samples.extras import kinds_of, merge_kinds
from raycurate.samples.forgotten import Forgotten
from raycurate.samples.images import ImageLimits, ImageRoot
from raycurate.samples.mixture import Bound, drawn, draws_of, source_name
from raycurate.samples.opening import unread_files
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reject, rejects_to_table
from raycurate.samples.rows import Reader, Slice, SourceFile
from raycurate.samples.schema import QUARANTINE_SCHEMA, Sample, row_to_sample, samples_to_table
from raycurate.samples.seen import WatchedRoot, digest_of, seen_table, states_of
from raycurate.samples.shard import ShownImages, number_duplicates
from raycurate.samples.sources import is_missing
from raycurate.samples.unread import UnreadColumns, lines_of
from raycurate.stages.append import is_in, keep_appended, piece_config, settle, take_over
from raycurate.stages.engine.foreseen import IMAGES, ROWS, cpus_here, foresee
from raycurate.stages.engine.found_tasks import tell_tasks
from raycurate.stages.engine.growth import pieces_of, with_pieces
from raycurate.stages.engine.image_check import changed_images, seen_file
from raycurate.stages.engine.lineage import begin, keep_unless, required
from raycurate.stages.engine.mixed import counts_by_source, draw_sources, has_bound, write_draws
from raycurate.stages.engine.opened_source import OpenedSource, open_and_hash
from raycurate.stages.engine.rejects import check_rejects, check_some_good
from raycurate.stages.engine.shards import (
    count_record,
    map_tasks,
    resumable_steps,
    stage_progress,
    step_name,
)
from raycurate.stages.engine.shuffle import read_buckets, sort_table, split_buckets, write_bucket_file
from raycurate.stages.engine.source_check import note_states, noted_states

PIECE_BYTES = 64 << 20
MANY_ROWS = 1000
"""Rows of which not one can be used are enough to stop."""
BYTES_HERE = 4 << 20
"""Of a source file that one process reads in the seconds that a cluster takes to start."""
VIDEO_BYTES_HERE = 16 << 10
"""The same where its rows, about a hundred, show videos."""
log = logging.getLogger("raycurate")


def _is_small(_: Run, config: IngestConfig) -> bool:
    """Whether one process reads the source in the time that a cluster takes to start: small files, by name or glob.

    So is a source that is not there: that is told at once.
    """
    named = [config.source] if config.sources is None else [source.path for source in config.sources.values()]
    if any(is_missing(path) for path in named):
        return True
    paths = [path for name in named for path in glob.glob(name, recursive=True) or [name]]
    return all(map(os.path.isfile, paths)) and sum(map(os.path.getsize, paths)) <= (
        VIDEO_BYTES_HERE if config.video_frames else BYTES_HERE
    )


@in_session_unless(_is_small)
def ingest(run: Run, config: IngestConfig) -> Manifest:
    """Write the ``samples`` noun, or add to it. Every row of the source is in it or in the quarantine.

    Raises:
        UserError: a source or a setting that cannot be used, or samples that would lose what was appended to them.
    """
    noun = run.noun("samples", config.label)
    settle(run, noun)
    if not config.append:
        keep_unless(noun, {"config": config.determining()}, replace=config.replace)
        return _ingest(noun, config, open_and_hash(noun, config))
    standing = required(noun)
    config = piece_config(standing, config)
    source = open_and_hash(noun, config)
    if is_in(standing, source.description):
        log.info("ingest: %s is in 'samples/%s' already", config.source, noun.label)
        return standing
    piece = run.noun("samples", config.label)
    _ingest(piece, config, source)
    return take_over(run, noun, piece)


def _ingest(noun: Noun, config: IngestConfig, source: OpenedSource) -> Manifest:
    """Make samples of a source, unless they are there."""
    if done := _finished(noun, source.description, config):
        known = {state.uri: state for state in (*noted_states(noun).values(), *source.states)}
        note_states(noun, list(known.values()))  # with their new times
        return done
    keep_appended(noun, config)
    begin(noun, source.description, replace=config.replace)
    note_states(noun, source.states)
    for line in unread_files(config, source.reader):
        log.warning("ingest: %s", line)
    parsed = _parse(noun, source.reader, source.parse, config)
    root = ImageRoot.of(config.images)
    limits = ImageLimits(max_bytes=config.max_image_bytes, max_pixels=config.max_pixels)
    bounds, kept = draw_sources(noun, config, parsed.sources, parsed.draws)
    rows_B = parsed.rows_B if not bounds else -(-parsed.rows_B * kept // max(1, parsed.sources.total()))
    ranges = split_buckets(rows_B, config.rows_per_shard)
    gather = functools.partial(_gather_shard, noun, parsed.uris, parsed.rejects, ranges, root, limits, config, bounds)
    total = (kept if bounds else int(parsed.rows_B.sum())) + sum(parsed.rejects.values())
    with stage_progress("ingest", noun, total) as progress:
        rejected = 0
        missing = ((shard,) for shard in noun.missing(len(ranges)))
        for record in map_tasks(gather, missing, max_tasks=config.max_tasks):
            rejected = count_record(progress, record, strict=config.strict, quarantined=rejected)
    return _finish(noun, config, parsed)


def _finished(noun: Noun, description: dict[str, Any], config: IngestConfig) -> Manifest | None:
    """The samples that are there, if they are of this source and these settings, and their images are as they were.

    What was appended to them since does not count.
    """
    manifest = noun.manifest()
    if manifest is None:
        return None
    seen = {name: value for name, value in manifest.description["inputs"].items() if name == "images"}
    asked = {**description, "inputs": {**description["inputs"], **seen}}
    if not noun.is_done(with_pieces(asked, pieces_of(manifest.description))):
        return None
    replaced, others = changed_images(noun, manifest, config.images)
    if not replaced and not others:
        return manifest
    keep_appended(noun, config)
    log.warning(
        "%s/%s: made again: %d images have changed, for example '%s'",
        noun.noun,
        noun.label,
        len(replaced) + len(others),
        (*replaced, *others)[0],
    )
    noun.clear()
    return None


def _finish(noun: Noun, config: IngestConfig, parsed: _Parsed) -> Manifest:
    tasks: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    images = hashlib.blake2b(digest_size=16)
    sources: Counter[str] = Counter()
    for _, record in sorted(noun.records().items()):
        sources.update(record.extra.get("sources", {}))
        images.update(record.extra["images"].encode())
        tasks.update(record.extra["tasks"])
        reasons.update(record.quarantined)
    if not tasks:
        if parsed.outside:
            reasons["outside of hash_range"] = parsed.outside
        raise UserError(
            f"no row of {config.source} could be used: {dict(reasons)}. {noun.quarantine_folder} says why, row by row; "
            "is the format right, and is --images the folder that the image paths start from?"
        )
    check_rejects("ingest", noun, config.max_rejected)
    delete_folder(noun.filesystem, f"{noun.folder}/work")
    counts: dict[str, Any] = {
        "tasks": dict(sorted(tasks.items())),
        "tasks_from": dict(parsed.tasks_from),
    }
    tell_tasks(tasks, parsed.tasks_from)
    if parsed.kept:
        counts["kept_columns"] = dict(sorted(parsed.kept.items()))
    foresee(noun, functools.partial(_work, noun, config, sum(tasks.values())), cpus=cpus_here())
    if config.sources is not None:
        counts |= counts_by_source(config, parsed.sources, parsed.rejects_of, sources)
    if config.hash_range is not None:
        counts["out_of_range"] = parsed.outside
    if parsed.unread:
        counts["not_read"] = dict(sorted(parsed.unread.items()))
        for line in lines_of(parsed.unread):
            log.warning("ingest: %s", line)
    return noun.finish(metrics=counts, inputs={"images": images.hexdigest()} if config.images is not None else None)


def _work(noun: Noun, config: IngestConfig, rows: int, rates: Rates) -> Work:
    """The work of an ingest by what its source has turned out to be, from a few rows of its first part."""
    work = noun.read_json("work.json")
    assert work is not None, "ingest has begun"
    files = work["description"]["inputs"]["files"]
    part = next(number for number, record in sorted(noun.records().items()) if record.rows_out)
    samples = [row_to_sample(row) for row in noun.read_part(part).slice(0, ROWS).to_pylist()]
    root = ImageRoot.of(config.images)
    local = root.root is None or "://" not in root.root
    size, images = sum(file[1] for file in files), IMAGES if local else 0
    source = facts_of(samples, rows=rows, source_bytes=size, root=root, whole=True, images=images)
    return ingest_work(source, rates, check_images=config.check_images, rows_per_shard=config.rows_per_shard)


@dataclass(slots=True)
class _Parsed:
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


def _parse(noun: Noun, reader: Reader, options: ParseOptions, config: IngestConfig) -> _Parsed:
    """Parse every slice."""
    numbered = list(enumerate(reader.files))

    def slices_of(number: int, file: SourceFile) -> tuple[int, list[Slice], list[str]]:
        return number, reader.slice_file(file), reader.unread_columns(file)

    cut = map_tasks(slices_of, numbered, num_cpus=0.5, max_tasks=config.max_tasks)
    by_file = {number: (parts, unread) for number, parts, unread in cut}
    slices = [(part,) for number, _ in numbered for part in by_file[number][0]]
    if not slices:
        reader.slices()  # raises the error that names the empty source
    parsed = _Parsed(np.zeros(config.buckets, dtype=np.int64))
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


def _gather_shard(
    noun: Noun,
    uris: list[str],
    rejects: dict[int, int],
    ranges: list[tuple[int, int]],
    root: ImageRoot,
    limits: ImageLimits,
    config: IngestConfig,
    bounds: Mapping[str, Bound],
    shard: int,
) -> ShardRecord:
    """Task: the rows of one shard in canonical order, those not drawn left out, duplicates numbered, images checked."""
    low, high = ranges[shard]
    table = sort_table(read_buckets(uris, low, high), "order", "key", "source_file", "source_row")
    if bounds:
        table = table.filter(pa.array(drawn(table, bounds)))
    table = number_duplicates(table)
    shown = ShownImages(table)
    paths = shown.paths()
    states = states_of(root, paths)
    watched = WatchedRoot(root.root, root.links)
    faults = shown.faults(watched, limits, decode=config.check_images, threads=config.threads)
    seen = seen_table(paths, states, watched)
    if paths:
        noun.write_table(seen_file(shard), seen)
    good, faulty = shown.split(table, faults)
    refused = [rejects_to_table(faulty)]
    adopted = [number for number in sorted(rejects) if number % len(ranges) == shard]
    refused += [noun.read_table(step_name("parsed", number, "rejects.parquet")) for number in adopted]
    quarantined = pa.concat_tables(refused).cast(QUARANTINE_SCHEMA)
    rows = good.num_rows + quarantined.num_rows
    check_some_good(shard, rows, quarantined, config.max_rejected)
    files = good["source_file"].to_pylist()
    return noun.commit_part(
        shard,
        good,
        rows_in=rows,
        rejects=quarantined,
        row_group_rows=256,
        extra={
            "tasks": dict(Counter(good["task"].to_pylist())),
            "images": digest_of(seen),
            **({} if config.sources is None else {"sources": dict(Counter(map(source_name, files)))}),
        },
    )
