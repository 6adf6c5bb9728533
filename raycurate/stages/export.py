"""``export``: the kept samples as one dataset file that trainers read, streamed shard by shard in canonical order."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from raycurate.config import ExportConfig
from raycurate.samples.exporters import ExportOptions, export_samples, samples_from_tables
from raycurate.samples.images import ImageRoot
from raycurate.stages.lineage import required
from raycurate.store import Run


def export(run: Run, config: ExportConfig) -> int:
    """Write the kept samples of a selection to ``config.out``; returns the number of rows."""
    samples = run.noun("samples", config.samples)
    selection = run.noun("selection", config.selection)
    ingested = required(samples)
    manifest = required(selection, of=ingested)

    def kept() -> Iterator[pa.Table]:
        for shard in range(ingested.shards):
            decided = selection.read_part(shard, ["key", "kept"])
            rows = samples.read_part(shard)
            assert rows["key"].equals(decided["key"]), f"samples and selection differ in shard {shard}"
            yield rows.filter(decided["kept"])

    root = ImageRoot(ingested.description["config"].get("images")) if config.embed_images else None
    options = ExportOptions(embed_images_from=root)
    counts = export_samples(samples_from_tables(kept()), config.out, config.format, options)
    assert counts.rows == manifest.metrics["kept"], f"exported {counts.rows} rows of {manifest.metrics['kept']}"
    return counts.rows
