"""The prints of every row of some samples, once for `dedup`, `decontaminate` and all of their settings.

    samples --per shard: hash the words, decode each distinct image once--> prints (about 0.4 KB and 8 bytes a word)

A row whose image cannot be read any more is quarantined: nothing can be said of it, so it is never marked.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.cleaning.config import CleaningConfig
from raycurate.cleaning.pictures import PicturePrint, print_picture
from raycurate.cleaning.words import asked_and_answered, grams, text_hash
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.samples.images import ImageLimits, ImageRoot, load_image, strict_decoding
from raycurate.samples.quarantine import Fault, FaultError
from raycurate.samples.shard import ShownImages
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.rejects import check_rejects
from raycurate.stages.engine.shards import names_of, run_missing_shards, skip_if_done
from raycurate.stages.table import version_of
from raycurate.stages.workers.fragments import SOURCE_COLUMNS, accepted_images, rejects_of

STAGE = NOUN = "prints"
PRINTS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_id", pa.string()),
        ("text", pa.binary(16)),
        ("asked", pa.binary()),
        ("answered", pa.binary()),
        ("pixels", pa.binary()),
        ("hashes", pa.binary()),
        ("shades", pa.binary()),
    ]
)
"""Grams, and the prints of the row's images one after the other, as bytes; numbers are little-endian."""


def make_prints(run: Run, config: CleaningConfig, label: str) -> Noun:
    """The finished prints of `samples/<label>`, made now or found.

    Raises:
        UserError: samples that are not there or stale, or too many rows that cannot be read.
    """
    samples = run.noun("samples", label)
    manifest = required(samples)
    images = (config.images if label == config.samples else None) or manifest.description["config"].get("images")
    check_images(samples, manifest, images)
    description = {
        "stage": STAGE,
        "stage_version": version_of(STAGE),
        "config": {},
        "inputs": {"samples": manifest.fingerprint},
        "made_from": names_of([manifest]),
    }
    noun = run.noun(NOUN, label)
    if skip_if_done(noun, description):
        return noun
    begin(noun, description, by_shard=True)
    make = functools.partial(_make_shard, samples, noun, images, accepted_images(samples), config.threads)
    run_missing_shards(
        STAGE,
        noun,
        make,
        num_shards=manifest.shards,
        total_rows=manifest.rows_out,
        strict=config.strict,
        max_tasks=config.max_tasks,
    )
    check_rejects(STAGE, noun, config.max_rejected, samples=samples)
    _finish(noun)
    return noun


def _finish(noun: Noun) -> Manifest:
    return noun.finish(metrics={"images": sum(record.extra["images"] for record in noun.records().values())})


def _make_shard(
    samples: Noun, noun: Noun, images: str | None, limits: ImageLimits, threads: int, shard: int
) -> ShardRecord:
    """Task: the prints of one shard."""
    rows = samples.read_part(shard, [*SOURCE_COLUMNS, "images"])
    shown = ShownImages(rows)
    prints, faults = _print_images(shown, ImageRoot.of(images), limits, threads)
    images_of: list[list[int]] = [[] for _ in range(rows.num_rows)]
    for image, row in zip(shown.image_S.tolist(), shown.row_S.tolist(), strict=True):
        images_of[row].append(image)
    bad = {row: next(i for i in own if i in faults) for row, own in enumerate(images_of) if faults.keys() & set(own)}
    lost = [faults[image] for image in bad.values()]
    rejects = rejects_of(rows, np.array(list(bad), dtype=np.int64), [f.reason for f in lost], [f.detail for f in lost])
    good = [
        {"key": key, "source_id": source_id, **_words(messages), **_pictures([prints[i] for i in images_of[row]])}
        for row, (key, source_id, messages) in enumerate(
            zip(*(rows[name].to_pylist() for name in ("key", "source_id", "messages")), strict=True)
        )
        if row not in bad
    ]
    table = pa.Table.from_pylist(good, schema=PRINTS_SCHEMA)
    return noun.commit_part(shard, table, rows_in=rows.num_rows, rejects=rejects, extra={"images": len(shown)})


def _print_images(
    shown: ShownImages, root: ImageRoot, limits: ImageLimits, threads: int
) -> tuple[dict[int, PicturePrint], dict[int, Fault]]:
    """The prints of distinct images by their number, and what is wrong with the others."""

    def look(image: int) -> PicturePrint | Fault:
        try:
            return print_picture(load_image(root.read(shown.ref(image), limits.max_bytes), limits))
        except FaultError as error:
            return error.fault

    with strict_decoding(), ThreadPoolExecutor(max_workers=threads) as pool:
        found = list(pool.map(look, range(len(shown))))
    prints = {image: each for image, each in enumerate(found) if isinstance(each, PicturePrint)}
    return prints, {image: each for image, each in enumerate(found) if isinstance(each, Fault)}


def _words(messages: list[Mapping[str, Any]]) -> dict[str, bytes]:
    asked, answered = asked_and_answered(messages)
    sides = {"asked": grams(asked), "answered": grams(answered)}
    return {"text": text_hash(messages), **{name: each.astype("<u8").tobytes() for name, each in sides.items()}}


def _pictures(images: list[PicturePrint]) -> dict[str, bytes]:
    return {
        "pixels": b"".join(each.pixels for each in images),
        "hashes": b"".join(each.hash_V.astype("<u8").tobytes() for each in images),
        "shades": b"".join(each.shade_S.tobytes() for each in images),
    }
