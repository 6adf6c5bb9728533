"""The VITW loss (CoTBal, Eq. 2): each token's cross-entropy weighted by its task, over the sum of those weights.

    L = sum_tokens lambda[task] * CE / sum_tokens lambda[task]

both sums over all valid tokens of one optimizer step: of every rank and every micro-batch. A token is valid where its
label is not -100; the token at position t is predicted from position t - 1. With R ranks whose gradients are averaged
and Z = the weight sum over the whole step, a micro-batch with weighted sum n goes backward on R * n / Z; the
micro-batches then add up to the gradient of L exactly. A mean per micro-batch would give a mean of means: up to 24%
off.

Only the ratios of lambda matter. The effective share of task i in the gradient is lambda_i T_i / sum_k lambda_k T_k
with T its valid tokens: that, not lambda, is what a report should show.

Shapes: B rows, T tokens, P kept positions, V vocabulary, K tasks. Cross-entropy is taken in float32.
`kept_positions` names the positions whose losses are needed, so that a model that can leave the others out never makes
their logits: prompts and images are most of a row. `head_losses.py` makes the losses without ever holding all logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

IGNORED = -100


@dataclass(frozen=True, slots=True)
class LossSums:
    """The sums of one micro-batch: `weighted` is n; per task the valid tokens, their summed loss, the rows. float64.

    `tokens_B` and `losses_B` are the same of each row.
    """

    weighted: torch.Tensor
    tokens_K: torch.Tensor
    losses_K: torch.Tensor
    rows_K: torch.Tensor
    tokens_B: torch.Tensor
    losses_B: torch.Tensor

    def stacked(self, weights_K: torch.Tensor) -> torch.Tensor:
        """Tokens, losses, rows, weighted tokens and weighted losses as one [5, K] tensor, for one all-reduce."""
        weights_K = weights_K.to(self.tokens_K)
        weighted = (self.tokens_K * weights_K, self.losses_K * weights_K)
        return torch.stack([self.tokens_K, self.losses_K, self.rows_K, *weighted])


def kept_positions(labels_BT: torch.Tensor) -> torch.Tensor:
    """The positions [P] that predict a valid token in any row, in order; [0] where there is none."""
    found_P = (labels_BT[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()
    return found_P if len(found_P) else found_P.new_zeros(1)


def token_counts(labels_BT: torch.Tensor, tasks_B: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """The valid tokens of each task in one micro-batch, float64 [K]."""
    valid_B = (labels_BT[:, 1:] != IGNORED).sum(dim=1).double()
    return torch.zeros(num_tasks, dtype=torch.float64, device=labels_BT.device).index_add(0, tasks_B, valid_B)


def weight_sum(labels_BT: torch.Tensor, tasks_B: torch.Tensor, weights_K: torch.Tensor) -> torch.Tensor:
    """d of one micro-batch: the summed weight of its valid tokens, a float64 scalar."""
    return (token_counts(labels_BT, tasks_B, len(weights_K)) * weights_K.double()).sum()


def next_labels(labels_BT: torch.Tensor, positions_P: torch.Tensor) -> torch.Tensor:
    """The label that each position predicts, -100 after the last token."""
    return functional.pad(labels_BT, (0, 1), value=IGNORED)[:, positions_P + 1]


def token_losses(logits_BPV: torch.Tensor, labels_BP: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each label, float32 [B, P], 0 where there is none; logits of any floating dtype.

    Cost: a float32 copy of the logits and their gradient, about 16 bytes for each logit.
    """
    return functional.cross_entropy(
        logits_BPV.flatten(0, 1).float(), labels_BP.flatten(), reduction="none", ignore_index=IGNORED
    ).view_as(labels_BP)


def weighted_sums(
    losses_BP: torch.Tensor,
    labels_BP: torch.Tensor,
    tasks_B: torch.Tensor,
    weights_K: torch.Tensor,
    weights_B: torch.Tensor | None = None,
) -> LossSums:
    """The sums of one micro-batch from the losses of its labels.

    Args:
        losses_BP: of each label, 0 where there is none; the gradient flows through `weighted` only.
        labels_BP: the labels that the kept positions predict (`next_labels`).
        tasks_B: task number per row, int64.
        weights_K: lambda per task.
        weights_B: weight of each row's tokens, instead of its task's.
    """
    weights_B = weights_K[tasks_B] if weights_B is None else weights_B
    valid_B = (labels_BP != IGNORED).sum(dim=1).double()
    losses_B = losses_BP.detach().sum(dim=1, dtype=torch.float64)
    zeros_K = torch.zeros(len(weights_K), dtype=torch.float64, device=losses_BP.device)
    return LossSums(
        weighted=(losses_BP * weights_B.to(losses_BP.dtype)[:, None]).sum(),
        tokens_K=zeros_K.index_add(0, tasks_B, valid_B),
        losses_K=zeros_K.index_add(0, tasks_B, losses_B),
        rows_K=zeros_K.index_add(0, tasks_B, (valid_B > 0).double()),
        tokens_B=valid_B,
        losses_B=losses_B,
    )


def gradient_shares(weighted_K: torch.Tensor) -> torch.Tensor:
    """lambda_i T_i / sum_k lambda_k T_k per task from lambda_i T_i, float64 [K]; zeros where there is no token."""
    return weighted_K.double() / weighted_K.sum().double().clamp_min(torch.finfo(torch.float64).tiny)
