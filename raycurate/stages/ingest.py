"""``ingest``: a source in any supported format -> the ``samples`` noun in canonical order, and a quarantine.

    source --slice--> parse --bucketed by image hash--> gather per shard: number duplicates, check images, commit

A slice is a run of source rows that one task reads and parses (`engine/parsing.py`). Good rows are routed by the hash
of their first image, so a shard holds the same rows whatever files, slices or workers they came through, rows of one
image lie side by side, and exact duplicates meet in one shard, where they are numbered. Each distinct image is decoded
once per shard.

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
from typing import Any

import pyarrow as pa

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.estimate.formulas import ingest_work
from raycurate.estimate.rates import Rates
from raycurate.estimate.source import facts_of
from raycurate.estimate.work import Work
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import delete_folder
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.samples.images import ImageLimits, ImageRoot
from raycurate.samples.mixture import Bound, drawn, source_name
from raycurate.samples.opening import unread_files
from raycurate.samples.quarantine import rejects_to_table
from raycurate.samples.schema import QUARANTINE_SCHEMA, row_to_sample
from raycurate.samples.seen import WatchedRoot, digest_of, seen_table, states_of
from raycurate.samples.shard import ShownImages, number_duplicates
from raycurate.samples.sources import is_missing
from raycurate.samples.unread import lines_of
from raycurate.stages.append import is_in, keep_appended, piece_config, settle, take_over
from raycurate.stages.engine.foreseen import IMAGES, ROWS, cpus_here, foresee
from raycurate.stages.engine.found_tasks import tell_tasks
from raycurate.stages.engine.growth import pieces_of, with_pieces
from raycurate.stages.engine.image_check import changed_images, seen_file
from raycurate.stages.engine.lineage import begin, keep_unless, required
from raycurate.stages.engine.mixed import counts_by_source, draw_sources
from raycurate.stages.engine.opened_source import OpenedSource, open_and_hash
from raycurate.stages.engine.parsing import Parsed, parse
from raycurate.stages.engine.rejects import check_rejects, check_some_good, first_with, told_reasons
from raycurate.stages.engine.shards import (
    count_record,
    map_tasks,
    stage_progress,
    step_name,
)
from raycurate.stages.engine.shuffle import read_buckets, sort_table, split_buckets
from raycurate.stages.engine.source_check import note_states, noted_states

BYTES_HERE = 4 << 20
"""Of a source file that one process reads in the seconds that a cluster takes to start."""
VIDEO_BYTES_HERE = 16 << 10
"""The same where its rows, about a hundred, show videos."""
CANONICAL = ("order", "key", "task", "source_id", "extra", "source_file", "source_row")
"""What rows are sorted by; equal ones by all that they hold first, so that their numbers do not follow the source."""
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
    parsed = parse(noun, source.reader, source.parse, config)
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


def _finish(noun: Noun, config: IngestConfig, parsed: Parsed) -> Manifest:
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
            f"no row of {config.source} could be used: {told_reasons(reasons)}. "
            f"{first_with(noun, max(reasons, key=reasons.__getitem__))}{noun.quarantine_folder} says why, row by row; "
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
    table = sort_table(read_buckets(uris, low, high), *CANONICAL)
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
