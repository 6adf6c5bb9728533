"""The work of each stage up to the export, by formula: one function of the rows and of what the settings say.

N rows, D numbers of a feature row, K clusters, W workers. A constant that is no arithmetic was counted once in the code
that it stands for (requests of a part, bytes of a row of a small table).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from raycurate.estimate.geometry import Geometry
from raycurate.estimate.rates import Rates
from raycurate.estimate.source import Source
from raycurate.estimate.tokens import Tokens
from raycurate.estimate.work import Work

PADDING = 1.08
"""Tokens of a batch to those of its rows: rows of like length are packed together."""
SQUARES_SPREAD = 1.5
"""Sum of squared cluster sizes to that of equal clusters; 1 + the square of the sizes' spread."""
ACTOR_STARTS, LOADER_STARTS = 1.1, 1.1
"""Of a pool: of each about one process a core imports the libraries, all side by side; one looks first."""
EMBEDDINGS = ("last_token", "mean_token", "weighted_token", "visual", "attended")
"""Scores that are features of the model's width."""
PARTS_READ = 3
"""Parts that `select` reads for each that it writes: samples and what is joined to them."""
PART_REQUESTS = 6.0
"""Of a part that is written and read by one later stage: part, record, their listing, and the ranges read."""
IMAGE_REQUESTS = 2.0
TEXT_ON_DISK = 0.45
"""Bytes of a sample on disk to characters of its text, after compression; beside it ROW_ON_DISK for keys and names."""
ROW_ON_DISK = 150.0
TABLE_ROW_BYTES = 60.0
LAYER_NUMBERS = 24.0
"""Numbers of a token's width that a layer holds at once in inference."""
ELEMENT_BYTES = 2


def ingest_work(source: Source, rates: Rates, *, check_images: bool, rows_per_shard: int) -> Work:
    """Read, parse, key, check every distinct image, write twice and read once."""
    rows = source.rows
    images = source.distinct * rows
    checking = images * (rates.check_image_seconds + source.pixels / rates.check_pixels) if check_images else 0.0
    embedded = images * source.image_bytes if source.embedded else 0.0
    kept = rows * (ROW_ON_DISK + TEXT_ON_DISK * source.chars) + embedded
    fetched = images * source.image_bytes if check_images and not source.embedded else 0.0
    return Work(
        rows=rows,
        core_seconds=rows * rates.parse_row_seconds + source.source_bytes / rates.parse_bytes + checking,
        read_bytes=2.0 * source.source_bytes + kept + fetched,
        write_bytes=2.0 * kept,
        requests=PART_REQUESTS * 2 * rows / rows_per_shard + (IMAGE_REQUESTS * images if fetched else 0.0),
        disk_bytes=kept,
        memory_bytes=rows_per_shard * kept / max(rows, 1) * 4,
        task_starts=1.0,
    )


def loading_work(rows: float, source: Source, tokens: Tokens, rates: Rates) -> Work:
    """Rows and their distinct images read, decoded, processed and tokenised for a model."""
    images = rows * source.distinct
    pixels = max(source.pixels, tokens.image_bytes / 6)  # decoded and resized; three channels of 16 bits
    own = rates.image_seconds + pixels / rates.load_pixels
    fetched = images * source.image_bytes
    return Work(
        rows=round(rows),
        core_seconds=rows * rates.prepare_row_seconds + images * own,
        read_bytes=fetched + rows * (ROW_ON_DISK + TEXT_ON_DISK * source.chars),
        requests=0.0 if source.embedded else IMAGE_REQUESTS * images,
    )


def pass_work(
    rows: float,
    source: Source,
    tokens: Tokens,
    geometry: Geometry,
    *,
    stop: int | None = None,
    mlp_of_last: bool = True,
    batch_tokens: int = 16_384,
    most_cards: int = 1 << 30,
) -> Work:
    """A forward pass over rows, the tower once for each distinct image."""
    images = rows * source.distinct
    layers = geometry.layers if stop is None else stop + 1
    decoder = geometry.decoder_flop(tokens.row, tokens.square, stop=stop, mlp_of_last=mlp_of_last)
    vision = geometry.vision_flop(tokens.patches, tokens.visual, tokens.tiles)
    traffic = rows * PADDING * geometry.row_traffic(tokens.row, layers, ELEMENT_BYTES)
    held = batch_tokens * ELEMENT_BYTES * (LAYER_NUMBERS * geometry.width + 4 * geometry.inner)
    return Work(
        rows=0,
        network_flop=rows * PADDING * decoder + images * vision,
        network_bytes=traffic + images * geometry.vision_traffic(tokens.patches, ELEMENT_BYTES),
        memory_bytes=ELEMENT_BYTES * geometry.parameters + held,
        starts=ACTOR_STARTS,
        loader_starts=LOADER_STARTS,
        use="extract",
        most_cards=most_cards,
    )


def extract_work(
    source: Source,
    tokens: Tokens,
    geometry: Geometry,
    rates: Rates,
    *,
    layers: Sequence[int],
    variant: str = "attn",
    batch_tokens: int = 16_384,
    rows_per_shard: int = 2048,
    most_cards: int = 1 << 30,
) -> Work:
    """Loading, the truncated pass, and 2 D bytes a row written as fragments and again as parts."""
    rows, dim = source.rows, dimension_of(geometry, layers, variant)
    passed = pass_work(
        rows,
        source,
        tokens,
        geometry,
        stop=None if variant == "last_layer" else max(layers),
        mlp_of_last=variant != "attn" and variant != "boolean",
        batch_tokens=batch_tokens,
        most_cards=most_cards,
    )
    batches = rows * tokens.row * PADDING / batch_tokens
    features = 2.0 * dim * rows
    written = Work(
        rows=0,
        write_bytes=2 * features,
        read_bytes=features,
        requests=3 * batches + PART_REQUESTS * rows / rows_per_shard,
        disk_bytes=features,
    )
    return loading_work(rows, source, tokens, rates).plus(passed).plus(written)


def score_work(
    source: Source,
    tokens: Tokens,
    geometry: Geometry,
    rates: Rates,
    config: Any,
) -> Work:
    """The scores of a `ScoreConfig` but CLIP's: loading, whole passes, and 2 D bytes a row of each embedding; gradients
    take two passes more, losses without the image half a one."""
    rows, scores = source.rows, set(config.scores)
    embedded = len(scores & set(EMBEDDINGS))
    one = pass_work(rows, source, tokens, geometry, batch_tokens=config.batch_tokens, most_cards=config.max_actors)
    more = 0.5 * ("token_losses" in scores and config.blind) + 2.0 * ("gradients" in scores)
    again = Work(
        rows=0,
        network_flop=one.network_flop * more,
        network_bytes=one.network_bytes * more,
        disk_bytes=2.0 * rows * geometry.width * embedded,
    )
    return loading_work(rows, source, tokens, rates).plus(one).plus(again)


def dimension_of(geometry: Geometry, layers: Sequence[int], variant: str = "attn") -> int:
    """Numbers of a feature row: the mean over visual and over text tokens of every layer."""
    return 2 * (1 if variant == "last_layer" else len(layers)) * geometry.width


def cluster_work(
    rows: int,
    dim: int,
    clusters: int,
    rates: Rates,
    *,
    iterations: int,
    workers: int,
    project: int | None = None,
    fit_sample: int | None = None,
    rows_per_shard: int = 2048,
) -> Work:
    """2 N D K FLOP an iteration and once more to assign all; each row read twice and checked.

    Rows are taken to be held in memory; what does not fit is read again in every iteration. Each worker holds 20 K D
    bytes beside its rows. An early end by `tolerance` is not foreseen.
    """
    inner = min(project or dim, dim)
    fitted = min(fit_sample or rows, rows)
    products = 2.0 * inner * clusters * (iterations * fitted + rows)
    if project is not None:
        products += 2.0 * dim * inner * (fitted + rows)
    moved = 4.0 * dim * (fitted + rows)
    exchanged = 12.0 * clusters * inner * iterations * (workers > 1)
    return Work(
        rows=rows,
        core_seconds=(moved * 2.5 + exchanged) / rates.memory_bytes + rows * rates.table_row_seconds,
        network_bytes=4.0 * inner * (iterations * fitted + rows),  # rows to the product's type, and sums
        product_flop=products,
        read_bytes=moved,
        write_bytes=TABLE_ROW_BYTES * rows + 8.0 * clusters * dim,
        requests=PART_REQUESTS * 2 * rows / rows_per_shard + 3.0 * iterations,
        disk_bytes=TABLE_ROW_BYTES * rows + 4.0 * clusters * dim,
        memory_bytes=2.0 * fitted * inner / workers + 20.0 * clusters * inner,
        starts=1.0,
        use="extract",
        most_cards=workers,
    )


def rank_work(
    rows: int,
    dim: int,
    clusters: int,
    rates: Rates,
    *,
    max_rows: int = 16_384,
    rows_per_shard: int = 2048,
    bucket_bytes: int = 256 << 20,
) -> Work:
    """Rows regrouped (2 N D bytes written and read), n^2 D products of each cluster's kernel, n^2 for the order.

    A task orders the clusters of a bucket: cores share the buckets, and are idle beside the last one.
    """
    size = min(SQUARES_SPREAD * rows / max(clusters, 1), float(max_rows))
    kernels = 2.0 * rows * size * dim
    greedy = 8.0 * rows * size
    files = math.ceil(rows / rows_per_shard)
    buckets = math.ceil(2.0 * rows * dim / bucket_bytes)
    ordering = kernels / rates.product_flops + (greedy * 4 + 8.0 * rows * dim) / rates.memory_bytes + clusters * 2e-3
    return Work(
        rows=rows,
        core_seconds=ordering * (1 - 1 / max(buckets, 1))
        + 4.0 * rows * dim / rates.memory_bytes
        + rows * 2 * rates.table_row_seconds,
        serial_seconds=ordering / max(buckets, 1),
        read_bytes=4.0 * rows * dim,
        write_bytes=2.0 * rows * dim + 2 * TABLE_ROW_BYTES * rows,
        requests=PART_REQUESTS * 2 * files + 3.0 * files * max(2.0 * rows * dim / bucket_bytes, 1.0),
        disk_bytes=TABLE_ROW_BYTES * rows,
        memory_bytes=bucket_bytes + 4.0 * size * size + 4.0 * size * dim,
        task_starts=1.0,
    )


def table_work(rows: int, rates: Rates, *, passes: float = 1.0, rows_per_shard: int = 2048) -> Work:
    """Passes over small tables, as `select` makes them; short ones are mostly the opening and closing of parts."""
    parts = math.ceil(rows / rows_per_shard)
    return Work(
        rows=rows,
        core_seconds=passes * (rows * rates.table_row_seconds + parts * PARTS_READ * rates.part_seconds),
        read_bytes=passes * TABLE_ROW_BYTES * rows,
        write_bytes=TABLE_ROW_BYTES * rows,
        requests=PART_REQUESTS * passes * rows / rows_per_shard,
        disk_bytes=TABLE_ROW_BYTES * rows,
        serial_seconds=0.02,
    )


def export_work(source: Source, kept: int, rates: Rates, *, embeds: bool) -> Work:
    """One streamed pass over all samples; the kept rows written, with their images where the format has them."""
    text = kept * (2.0 * source.chars + ROW_ON_DISK)
    images = kept * source.images * source.image_bytes if embeds else 0.0
    all_bytes = source.rows * (ROW_ON_DISK + TEXT_ON_DISK * source.chars)
    return Work(
        rows=kept,
        serial_seconds=(source.rows / 2 + 2 * kept) * rates.table_row_seconds,
        read_bytes=all_bytes + images,
        write_bytes=text + images,
        requests=IMAGE_REQUESTS * kept * source.images if embeds else 0.0,
        disk_bytes=text + images,
    )
