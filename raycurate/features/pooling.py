"""Token activations of one sample to one unit feature row.

Algorithm (COINCIDE, arXiv 2406.10995, Eqs. 1-3, in the order of its published code): for each of M layers and each
modality m in {vision, text}, with z the hooked activations,

    a = tanh(mean over the tokens of m of z),   u = a / ||a||_2,   row = [u_v^1; u_t^1; ...; u_v^M; u_t^M] / sqrt(2M)

so a row has norm 1 and each of its 2M blocks of H numbers has norm 1/sqrt(2M). D = 2*M*H.

Choices where the source is silent or wrong:

* A row without an image has no visual tokens. Its vision blocks are zero and its text blocks are scaled by
  sqrt(2), so that the row is a unit vector too: its inner product with a row that has an image is then carried by
  the text halves alone.
* A row whose text mask is empty, or with a non-finite or zero block, has no feature: it fails with a reason.

Variants share this layout. `attn` pools the attention output projection, `ffn` the output of the MLP, `last_layer`
the output of the last decoder layer (before the final norm, M=1). `boolean` (the ablation of appendix F.4, whose exact
form is not published) replaces tanh(mean) by its sign pattern: b_h = +1 where the pooled attention activation is
above zero and -1 elsewhere, then u = b / sqrt(H); the inner product of two blocks is 1 - 2*Hamming/H.

Arithmetic is float32; rows leave as float16 (each entry a multiple of 2^-24). Cost per layer and batch: 4*B*T*H
FLOP and one float32 copy of [B,T,H] that is freed before the next layer; kept is [B,2,H] per layer.

Shapes: B rows, T tokens, H decoder width, M layers, D = 2*M*H. Index 0 of the axis of 2 is vision, 1 is text.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

Variant = Literal["attn", "ffn", "last_layer", "boolean"]
VARIANTS: tuple[str, ...] = get_args(Variant)

NO_TEXT = "no_text_tokens"
NON_FINITE = "non_finite_activation"
ZERO_NORM = "zero_norm_activation"


def pool_tokens(activations_BTH: torch.Tensor, masks_B2T: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of each mask, on the device of the activations.

    Args:
        activations_BTH: floating activations; values outside both masks may be anything, NaN included.
        masks_B2T: boolean, [:, 0] visual tokens and [:, 1] text tokens.

    Returns:
        float32 [B,2,H]; zero where a mask is empty.
    """
    content_BT1 = masks_B2T.any(dim=1).unsqueeze(-1)
    # Selecting before the product keeps a NaN of a padded position out of the sums (0 * NaN is NaN).
    kept_BTH = torch.where(
        content_BT1, activations_BTH, torch.zeros((), dtype=activations_BTH.dtype, device=activations_BTH.device)
    ).float()
    weights_B2T = masks_B2T.float()
    sums_B2H = torch.bmm(weights_B2T, kept_BTH)
    return sums_B2H / weights_B2T.sum(dim=2, keepdim=True).clamp_min(1.0)


def _unit_blocks(means_BM2H: torch.Tensor, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
    """Squash and normalise each block: (blocks [B,M,2,H], norms before the division [B,M,2])."""
    if variant == "boolean":
        squashed = torch.where(means_BM2H > 0, 1.0, -1.0)
        # A non-finite mean has no sign; keep it visible instead of hiding it behind -1.
        squashed = torch.where(torch.isfinite(means_BM2H), squashed, means_BM2H)
    else:
        squashed = torch.tanh(means_BM2H)
    norms_BM2 = torch.linalg.vector_norm(squashed, dim=-1)
    return squashed / norms_BM2.unsqueeze(-1).clamp_min(torch.finfo(torch.float32).tiny), norms_BM2


def unit_rows(
    means_BM2H: torch.Tensor, token_counts_B2: torch.Tensor, variant: Variant = "attn"
) -> tuple[torch.Tensor, list[str | None]]:
    """Pooled means to unit rows.

    Args:
        means_BM2H: float32 result of `pool_tokens`, layers stacked.
        token_counts_B2: tokens under each mask; a row with 0 visual tokens is a text-only row.
        variant: `boolean` takes signs, every other variant takes tanh.

    Returns:
        float16 features [B, 2*M*H] (a failed row is all zero) and one reason per row, None where it is good.
    """
    num_rows, num_layers, _, width = means_BM2H.shape
    means = means_BM2H.float()
    has_image_B = token_counts_B2[:, 0] > 0
    has_text_B = token_counts_B2[:, 1] > 0

    present_B2 = token_counts_B2 > 0
    present_BM2 = present_B2.unsqueeze(1).expand(num_rows, num_layers, 2)
    blocks, norms_BM2 = _unit_blocks(means, variant)
    # tanh turns an infinity into 1, so finiteness is judged on the means.
    finite_B = (torch.isfinite(means).all(dim=-1) | ~present_BM2).flatten(1).all(dim=1)
    nonzero_B = ((norms_BM2 > 0) | ~present_BM2).flatten(1).all(dim=1)

    scale_B = torch.where(has_image_B, 1.0 / math.sqrt(2 * num_layers), 1.0 / math.sqrt(num_layers))
    ok_B = has_text_B & finite_B & nonzero_B
    kept = present_BM2.unsqueeze(-1) & ok_B.view(-1, 1, 1, 1)
    blocks = torch.where(kept, blocks * scale_B.view(-1, 1, 1, 1), torch.zeros((), device=blocks.device))
    features_BD = blocks.reshape(num_rows, num_layers * 2 * width).to(torch.float16)

    flags = torch.stack([has_text_B, finite_B, nonzero_B], dim=1).tolist()
    reasons = [None if all(row) else (NO_TEXT, NON_FINITE, ZERO_NORM)[row.index(False)] for row in flags]
    return features_BD, reasons
