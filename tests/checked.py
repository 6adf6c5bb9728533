"""Samples through the check of a shard's images, as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycurate.samples.images import ImageRoot
from raycurate.samples.quarantine import Reject
from raycurate.samples.schema import Sample, row_to_sample, samples_to_table
from raycurate.samples.shard import ShownImages


def check_samples(samples: Sequence[Sample], root: ImageRoot, **settings: Any) -> list[Sample | Reject]:
    """Each sample, or its refusal for its first image at fault, in their order."""
    table = samples_to_table(samples)
    shown = ShownImages(table)
    faults = shown.faults(root, **settings)
    good, rejects = shown.split(table, faults)
    bad = sorted({int(row) for row, image in zip(shown.row_S, shown.image_S, strict=True) if image in faults})
    refused = dict(zip(bad, rejects, strict=True))
    left = iter(good.to_pylist())
    return [refused[row] if row in refused else row_to_sample(next(left)) for row in range(len(samples))]
