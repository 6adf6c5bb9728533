"""Round numbers that formulas can be worked out for by hand."""

from __future__ import annotations

from dataclasses import replace

from raycurate.estimate.geometry import Geometry
from raycurate.estimate.rates import DEFAULT_RATES
from raycurate.estimate.source import Source
from raycurate.estimate.tokens import Tokens

MODEL = Geometry(
    model="made",
    layers=4,
    width=10,
    inner=20,
    query_width=10,
    kv_width=20,
    attention_weights=400,
    layer_weights=1000,
    head_weights=5000,
    vision_blocks=2,
    vision_width=8,
    vision_block_weights=500,
    patch_weights=100,
    projector_weights=80,
    decoder_parameters=14_000,
    vision_parameters=1180,
)
TOKENS = Tokens(
    row=30, square=1000, answers=5, visual=16, patches=16, tiles=1, image_bytes=600, told_by="the processor"
)
SOURCE = Source(1000, 200_000, 2, 100, 1, 40, 1, 0.5, 2000, ((20, 10),))
RATES = replace(
    DEFAULT_RATES,
    product_flops=1e6,
    network_flops=1e6,
    training_flops=2e6,
    memory_bytes=1e6,
    disk_read=1e6,
    disk_write=1e6,
    worker_seconds=3.0,
)
