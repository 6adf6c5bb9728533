"""Dense labels for the embedded model's tower: what lies in each patch of a made-up scene, and heads that read it.

Stages 1 and 2 of `train.py` train with them; the heads are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from raycurate.models.tiny.corpus import CorpusRow, picture_row
from raycurate.models.tiny.definition import NUM_IMAGE_TOKENS, PATCH
from raycurate.models.tiny.scenes import COLORS, SHAPES, SIDE, Thing

IGNORE = -100
"""A label that is not learned."""
_KINDS = ("", *SHAPES, *"0123456789")
_TINTS = tuple(COLORS)


def normalise_pixels(row: CorpusRow) -> npt.NDArray[np.float32]:
    """Return the image as float32 (3, 64, 64) in [-1, 1], as the processor would."""
    assert row.image is not None
    pixels_HWC = np.asarray(row.image, dtype=np.float32)
    return (pixels_HWC / 127.5 - 1.0).transpose(2, 0, 1)


class PatchRows(Dataset[dict[str, torch.Tensor]]):
    """Images of the corpus with one target per patch, for the vision tower."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the pixels and the targets of one image."""
        row = picture_row(self.seed, index)
        return {"pixel_values": torch.from_numpy(normalise_pixels(row)), **patch_targets(row.things)}


def patch_targets(things: Sequence[Thing]) -> dict[str, torch.Tensor]:
    """Return kinds_P and tints_P (class ids; no tint, -100, for empty patches and digits) and boxes_P4 in fractions;
    present_C tells which kinds and colours occur anywhere in the scene.
    """
    side = SIDE // PATCH
    kinds_P = torch.zeros(NUM_IMAGE_TOKENS, dtype=torch.long)
    tints_P = torch.full((NUM_IMAGE_TOKENS,), IGNORE)
    boxes_P4 = torch.zeros(NUM_IMAGE_TOKENS, 4)
    for thing in sorted(things, key=lambda one: one.area):
        x, y = (min(side - 1, max(0, int(v / PATCH))) for v in thing.center)
        patch = y * side + x
        kinds_P[patch] = _KINDS.index(thing.kind)
        tints_P[patch] = IGNORE if thing.kind.isdigit() else _TINTS.index(thing.color)
        boxes_P4[patch] = torch.tensor(thing.box) / SIDE
    present_C = torch.zeros(len(_KINDS) + len(_TINTS))
    for thing in things:
        present_C[_KINDS.index(thing.kind)] = 1.0
        if not thing.kind.isdigit():
            present_C[len(_KINDS) + _TINTS.index(thing.color)] = 1.0
    return {"kinds": kinds_P, "tints": tints_P, "boxes": boxes_P4, "present": present_C}


class PatchReader(nn.Module):
    """The vision tower with three linear heads on its patch tokens; returns the summed loss of the heads.

    With a `projector`, what it makes of a patch must also come near the word embeddings of what the patch holds, plus
    half of those of the whole scene, plus the box along four fixed directions.
    """

    def __init__(
        self, tower: CLIPVisionModel, projector: nn.Module | None = None, words_CH: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        width = tower.config.hidden_size
        self.tower = tower
        self.projector = projector
        self.kind = nn.Linear(width, len(_KINDS))
        self.tint = nn.Linear(width, len(_TINTS))
        self.box = nn.Linear(width, 4)
        if words_CH is not None:
            self.register_buffer("words_CH", words_CH)
            self.register_buffer("corners_4H", nn.functional.normalize(torch.randn(4, words_CH.shape[1])))

    def forward(
        self,
        pixel_values: torch.Tensor,
        kinds: torch.Tensor,
        tints: torch.Tensor,
        boxes: torch.Tensor,
        present: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return {"loss"} for pixels (B, 3, 64, 64), kinds and tints (B, P), boxes (B, P, 4), present (B, C)."""
        tokens_BPW = self.tower(pixel_values).last_hidden_state[:, 1:]
        # Most patches are empty: without a mean of their own the filled ones would hardly count.
        kinds_BPC, filled = self.kind(tokens_BPW), kinds > 0
        loss = nn.functional.cross_entropy(kinds_BPC[filled], kinds[filled])
        loss = loss + nn.functional.cross_entropy(kinds_BPC.flatten(0, 1), kinds.flatten())
        loss = loss + nn.functional.cross_entropy(self.tint(tokens_BPW).flatten(0, 1), tints.flatten()) / 4
        distance = nn.functional.smooth_l1_loss(self.box(tokens_BPW)[filled], boxes[filled], beta=0.05)
        loss = loss + 2 * distance
        if self.projector is not None:
            wanted_BPH = self._wanted(kinds, tints, boxes, present)
            loss = loss + 2 * (self.projector(tokens_BPW) - wanted_BPH).square().sum(-1).mean()
        return {"loss": loss}

    def _wanted(
        self, kinds: torch.Tensor, tints: torch.Tensor, boxes: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """Return what the projector should make of each patch, (B, P, H)."""
        local_BPH = self.words_CH[kinds]
        local_BPH = local_BPH + self.words_CH[len(_KINDS) + tints.clamp(min=0)] * (tints >= 0)[..., None]
        local_BPH = local_BPH + ((2 * boxes - 1) * (kinds > 0)[..., None]) @ self.corners_4H
        return local_BPH + 0.5 * (present @ self.words_CH)[:, None]


def scene_words(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return the unit embeddings (C, H) of every kind and colour, as an answer starts and as a sentence goes on.

    The first row, of the empty patch, is zero.
    """
    table_VH = model.get_input_embeddings().weight.detach()
    rows = []
    for word in (*_KINDS, *_TINTS):
        forms = [
            tokenizer.encode(text, add_special_tokens=False)[:1]
            for text in (word, word if word.isdigit() else f" {word}")
        ]
        rows.append(table_VH[sum(forms, [])].sum(0) if word else torch.zeros_like(table_VH[0]))
    return nn.functional.normalize(torch.stack(rows))
