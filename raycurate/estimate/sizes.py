"""The table of how large a cluster is wanted, made by the formulas: what `cluster_configs/README.md` shows.

The reference model has TinyLLaVA-2B's sizes (24 layers of 2,048, SigLIP so400m at 378 pixels), rows have an image of
640 x 480 and 200 tokens of text, nodes are those of `cluster_configs/aws.yaml`. Nothing of it was run.
"""

from __future__ import annotations

from dataclasses import replace

from raycurate.estimate.formulas import (
    cluster_work,
    dimension_of,
    export_work,
    extract_work,
    ingest_work,
    rank_work,
    table_work,
)
from raycurate.estimate.geometry import Geometry
from raycurate.estimate.places import Cluster, Group
from raycurate.estimate.rates import CARDS, DEFAULT_RATES
from raycurate.estimate.source import Source
from raycurate.estimate.tokens import Tokens
from raycurate.estimate.work import Work, time_of

MODEL = Geometry(
    model="TinyLLaVA-2B",
    layers=24,
    width=2048,
    inner=5632,
    query_width=2048,
    kv_width=4096,
    attention_weights=4 * 2048**2,
    layer_weights=4 * 2048**2 + 3 * 2048 * 5632,
    head_weights=32_064 * 2048,
    vision_blocks=27,
    vision_width=1152,
    vision_block_weights=4 * 1152**2 + 2 * 1152 * 4304,
    patch_weights=3 * 14 * 14 * 1152,
    projector_weights=1152 * 2048 + 2048**2,
    decoder_parameters=24 * (4 * 2048**2 + 3 * 2048 * 5632) + 2 * 32_064 * 2048,
    vision_parameters=27 * (4 * 1152**2 + 2 * 1152 * 4304),
)
LAYERS = (3, 7, 11, 15, 19)
TOKENS = Tokens(929.0, 929.0**2, 100.0, 729.0, 729.0, 1.0, 3 * 378 * 378 * 2.0, "assumed")
ROWS = Source(0, 0, 4.0, 800.0, 2.0, 400.0, 1.0, 1.0, 100_000.0, ((640, 480),), remote_images=True)
SIZES = ((186_000, 5_000, 4), (665_000, 10_000, 8), (10_000_000, 10_000, 15), (1_000_000_000, 10_000, 128))
"""Rows, clusters, GPU nodes."""
FIT_ABOVE, FIT_SAMPLE = 100_000_000, 10_000_000
"""Beyond so many rows k-means is fitted on a sample of so many."""
HEADER = "| rows, clusters | GPU nodes | run directory | requests | extract | cluster | rank | all, to the coreset |"


def size_table() -> str:
    """The table in Markdown."""
    lines = [HEADER, "|---|---|---|---|---|---|---|---|", *(_line(*size) for size in SIZES)]
    return "\n".join(lines)


def stages_of(rows: int, clusters: int, nodes: int) -> dict[str, Work]:
    """The work of every stage up to the export of 20 %."""
    source = replace(ROWS, rows=rows, source_bytes=rows * 1200)
    dim, rates = dimension_of(MODEL, LAYERS), DEFAULT_RATES
    sample = FIT_SAMPLE if rows >= FIT_ABOVE else None
    return {
        "ingest": ingest_work(source, rates, check_images=True, rows_per_shard=2048),
        "extract": extract_work(source, TOKENS, MODEL, rates, layers=LAYERS, most_cards=nodes),
        "cluster": cluster_work(rows, dim, clusters, rates, iterations=50, workers=nodes, fit_sample=sample),
        "rank": rank_work(rows, dim, clusters, rates),
        "select": table_work(rows, rates),
        "export": export_work(source, rows // 5, rates, embeds=False),
    }


def _line(rows: int, clusters: int, nodes: int) -> str:
    cluster = Cluster(
        "table",
        (Group("cpu", "", 32, most=4, standing=1), Group("gpu", "", 16, 1, CARDS["L40S"], most=nodes, use="extract")),
    )
    works = stages_of(rows, clusters, nodes)
    seconds = {name: time_of(work, cluster, DEFAULT_RATES, on_store=True).seconds for name, work in works.items()}
    disk = sum(work.disk_bytes for work in works.values())
    requests = sum(work.requests for work in works.values())
    cells = [f"{_count(rows)}, {clusters:,}", str(nodes), _count(disk, "B"), _count(requests)]
    cells += [_time(seconds[name]) for name in ("extract", "cluster", "rank")]
    return f"| {' | '.join([*cells, _time(sum(seconds.values()))])} |"


def _count(number: float, unit: str = "") -> str:
    for scale, name in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {name}{unit}"
    return f"{number:.0f} {unit}".strip()


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:,.0f} h" if seconds > 36_000 else f"{seconds / 3600:.1f} h"
