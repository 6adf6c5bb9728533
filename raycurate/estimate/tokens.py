"""Tokens, patches and processed bytes of rows as a model would read them.

With the model's processor here, some sampled rows are prepared as `extract` prepares them, images included, so that
templates, tiles and merged patches need no formula. Without it: `CHARS_PER_TOKEN` characters are a token, and tokens of
an image follow from the configuration, its grid or, where sizes are free, the image's own pixels.
Cost: the processor's import and load, seconds; milliseconds a row.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from raycurate.errors import UserError
from raycurate.estimate.source import Source

CHARS_PER_TOKEN = 4.0
TEMPLATE_TOKENS = 8.0
"""Of a turn, around its text."""
PREPARED_ROWS = 96
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Tokens:
    """Means over rows, or over images where the name says so.

    Attributes:
        row: tokens of a row, images expanded.
        square: square of that, for attention.
        answers: tokens of a row's answers.
        visual: tokens of an image in the decoder.
        patches: of an image in the tower, all tiles.
        tiles: of an image.
        image_bytes: of a processed image, 16-bit.
        told_by: processor, or ratio.
    """

    row: float
    square: float
    answers: float
    visual: float
    patches: float
    tiles: float
    image_bytes: float
    told_by: str

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        return asdict(self)


def read_tokens(model: str, config: Any, source: Source, *, trust_remote_code: bool = False) -> Tokens:
    """Tokens of a source's sampled rows for a model.

    Args:
        model: its name.
        config: of the model, for what its processor does not tell.
        source: with sampled rows.
        trust_remote_code: run code that comes with a hub model.
    """
    from raycurate.models.adapter import load_processor

    with contextlib.suppress(UserError):
        processor = load_processor(model, trust_remote_code=trust_remote_code)
        if (found := tokens_of(processor, config, source)) is not None:
            return found
    return by_ratio(config, source)


def by_ratio(config: Any, source: Source) -> Tokens:
    """Tokens by characters and by the image sizes of a configuration."""
    visual, patches, tiles, patch = image_tokens(config, source.pixels)
    row = source.chars / CHARS_PER_TOKEN + source.turns * TEMPLATE_TOKENS + source.images * visual
    return Tokens(
        row=row,
        square=row * row,
        answers=source.answer_chars / CHARS_PER_TOKEN + source.answers,
        visual=visual,
        patches=patches,
        tiles=tiles,
        image_bytes=patches * patch * patch * 3 * 2,
        told_by=f"{CHARS_PER_TOKEN:g} characters a token",
    )


def image_tokens(config: Any, pixels: float) -> tuple[float, float, float, int]:
    """Visual tokens, patches, tiles and the side of a patch, of an image of `pixels`, by a configuration."""
    vision = getattr(config, "vision_config", config)
    patch = _side(getattr(vision, "patch_size", None)) or 14
    merge = getattr(vision, "spatial_merge_size", None)
    if merge:
        patches = max(pixels / (patch * patch), float(merge * merge))
        return patches / (merge * merge), patches, 1.0, patch
    side = _side(getattr(vision, "image_size", None)) or 336
    patches = float((side // patch) ** 2)
    told = getattr(config, "image_seq_length", None) or getattr(config, "mm_tokens_per_image", None)
    return float(told or patches), patches, 1.0, patch


def _side(value: Any) -> int | None:
    """A side in pixels, of a number or a pair."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return int(value) if value else None


def tokens_of(processor: Any, config: Any, source: Source, rows: int = PREPARED_ROWS) -> Tokens | None:
    """What some sampled rows become for a loaded processor; None where none of them can be prepared."""
    import torch

    from raycurate.encoding.prepare import Preparer

    preparer = Preparer(processor, max_length=LONGEST, token_budget=LONGEST, max_rows=8, pixel_dtype=torch.bfloat16)
    lengths: list[float] = []
    visual = patches = tiles = num_bytes = images = 0.0
    patch = image_tokens(config, source.pixels)[3]
    for sample in source.samples[:rows]:
        shapes = [source.shapes[(len(lengths) + n) % len(source.shapes)] for n in range(len(sample.images))]
        row = {
            "key": "row",
            "messages": [{"role": message.role, "text": message.text} for message in sample.messages],
            "images": [_plain_image(*shape) for shape in shapes],
        }
        for batch in preparer.prepare([row]).batches:
            lengths.append(float(batch.attention_mask_BT.sum()))
            visual += float(batch.image_tokens_U.sum())
            images += len(batch.image_tokens_U)
            num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in batch.image_inputs.values())
            grid, count = _patches(batch.image_inputs.get("pixel_values"), patch)
            patches, tiles = patches + grid, tiles + count
    if not lengths:
        return None
    n, shown = len(lengths), max(images, 1.0)
    mean = sum(lengths) / n
    words = max(mean - source.images * visual / shown, 1.0)
    return Tokens(
        row=mean,
        square=sum(length * length for length in lengths) / n,
        answers=words * source.answer_chars / max(source.chars, 1.0),
        visual=visual / shown,
        patches=patches / shown,
        tiles=tiles / shown,
        image_bytes=num_bytes / shown,
        told_by="the processor",
    )


def _patches(pixels: Any, patch: int) -> tuple[float, float]:
    """Patches and tiles of a batch's pixel tensor: flat patches, or tiles of channels, height and width."""
    if pixels is None:
        return 0.0, 0.0
    if pixels.ndim == 2:
        return float(pixels.shape[0]), 1.0
    if pixels.ndim == 3:
        return float(pixels.shape[0] * pixels.shape[1]), float(pixels.shape[0])
    tiles = float(pixels.shape[:-3].numel())
    return tiles * (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch), tiles


def _plain_image(width: int, height: int) -> Any:
    """An image of a size; what it shows changes no count."""
    from PIL import Image

    return Image.new("RGB", (width, height))
