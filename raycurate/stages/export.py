"""``export``: the kept samples as one dataset file that trainers read, streamed shard by shard in canonical order."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import ExportConfig
from raycurate.run.store import Run
from raycurate.samples.exporters import (
    SAYS_WHAT_IS_TRAINED,
    ExportCounts,
    ExportOptions,
    export_samples,
    samples_from_tables,
)
from raycurate.samples.images import ImageRoot, accepted_limits
from raycurate.stages.engine.lineage import required

log = logging.getLogger("raycurate")


def export(run: Run, config: ExportConfig) -> int:
    """Write the kept samples of a selection to ``config.out``; returns the number of rows."""
    selection = run.noun("selection", config.selection)
    made_from = required(selection).description["config"]["samples"]
    samples = run.noun("samples", config.samples or made_from)
    ingested = required(samples)
    manifest = required(selection, of=ingested)

    def kept() -> Iterator[pa.Table]:
        for shard in range(ingested.shards):
            decided = selection.read_part(shard, ["key", "kept"])
            rows = samples.read_part(shard)
            assert rows["key"].equals(decided["key"]), f"samples and selection differ in shard {shard}"
            yield rows.filter(decided["kept"])

    root = config.images or ingested.description["config"].get("images")
    several = any(
        count > 1
        for shard in range(ingested.shards)
        for count in pc.list_value_length(samples.read_part(shard, ["images.list.element.path"])["images"]).to_pylist()
    )
    images = ImageRoot.of(root)
    options = ExportOptions(
        images=images,
        embed=config.embed_images,
        blocks=config.content == "blocks",
        image_lists=several,
        max_image_bytes=accepted_limits(ingested.description).max_bytes,
        train_all=config.train_all,
    )
    counts = export_samples(samples_from_tables(kept()), config.out, config.format, options)
    _warn(counts, config.format)
    if root is not None and config.format != "parquet":
        log.info("export: image paths count from %s", images.root)
    assert counts.rows == manifest.metrics["kept"], f"exported {counts.rows} rows of {manifest.metrics['kept']}"
    return counts.rows


def _warn(counts: ExportCounts, format: str) -> None:
    """Say what a trainer would read otherwise than it is meant."""
    if counts.context_only and format not in SAYS_WHAT_IS_TRAINED:
        log.warning(
            "export: %d rows have answers that are context only; a trainer of the format '%s' will learn them",
            counts.context_only,
            format,
        )
    if counts.media_texts:
        log.warning(
            "export: %d rows hold the text <video> or <audio>, which LLaMA-Factory and ms-swift take for a file",
            counts.media_texts,
        )
