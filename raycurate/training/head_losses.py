"""The token losses of a forward pass without its logits: the LM head gives losses, chunk by chunk.

    hidden [N, H] of the labelled positions --head, cross-entropy, R rows at a time--> losses [N]

While a pass runs, the head's `forward` is one that takes the hidden states and returns each position's loss in the
place of its logits. Everything stays where it was: the model's own code runs around it, and ZeRO-3 gathers the head's
weight for the call as for any other (and again in the backward pass, where the chunks are made once more: no chunk's
logits are kept). Only labelled positions are put through the head at all.

That holds where nothing comes after the head. A model that caps or scales its logits, or makes them without the head,
is found by a pass that puts known numbers in their place, before the first loss; it gets the loss of its whole logits.

Memory: `CHUNK_LOGITS` logits, about 16 bytes each, instead of B * P * V. Cost: one more pass through the head where
there is more than one chunk.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from raycurate.features.survival import is_out_of_memory
from raycurate.training.vitw import IGNORED, next_labels, token_losses

CHUNK_LOGITS = 1 << 25
log = logging.getLogger("raycurate")

Head = Callable[[torch.Tensor], torch.Tensor]


class HeadLosses:
    """Forward passes of one network (plain, or within peft's, DDP's or DeepSpeed's) to token losses."""

    def __init__(self, network: Any, *, keeps_positions: bool, chunk_logits: int | None = None) -> None:
        """Set up.

        Args:
            network: the innermost model, whose head is changed during each pass.
            keeps_positions: whether its forward takes `logits_to_keep`.
            chunk_logits: logits of one chunk; default: `CHUNK_LOGITS`.
        """
        self._head = network.get_output_embeddings()
        self._keeps_positions = keeps_positions
        self._rows = max(1, (chunk_logits or CHUNK_LOGITS) // int(network.config.get_text_config().vocab_size))
        self._name = type(network).__name__
        self._is_plain: bool | None = None if self._head is not None else False

    def __call__(
        self, model: Any, inputs: Mapping[str, Any], labels_BT: torch.Tensor, positions_P: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """The losses at `positions_P`, float32 [B, P], 0 where there is no label, and what the model gave.

        The first call is one pass more; under DDP and ZeRO all ranks must make it together.
        """
        inputs = dict(inputs)
        if self._keeps_positions:
            inputs["logits_to_keep"] = positions_P
        shown_P = positions_P if self._keeps_positions else torch.arange(labels_BT.shape[1], device=labels_BT.device)
        if self._is_plain is None:
            self._is_plain = self._gives_what_the_head_gives(model, inputs)
            if not self._is_plain:
                log.warning("finetune: %s changes its logits after the LM head; they are made whole", self._name)
        if not self._is_plain:
            outputs = model(**inputs)
            logits_BPV = outputs.logits if self._keeps_positions else outputs.logits[:, positions_P]
            return token_losses(logits_BPV, next_labels(labels_BT, positions_P)), outputs
        labels_BS = next_labels(labels_BT, shown_P)
        with self._replaced(lambda head, hidden_BSH: self._losses(head, hidden_BSH, labels_BS)):
            outputs = model(**inputs)
        losses_BS = outputs.logits[..., 0]
        return losses_BS if self._keeps_positions else losses_BS[:, positions_P], outputs

    def _losses(self, head: Head, hidden_BSH: torch.Tensor, labels_BS: torch.Tensor) -> torch.Tensor:
        """The losses of a batch as [B, S, 1], in the place of logits."""
        labels_N = labels_BS.flatten()
        found_N = (labels_N != IGNORED).nonzero().flatten()
        if not len(found_N):  # one position without a label: the head stays in use, with a gradient of zero
            found_N = found_N.new_zeros(1)
        hidden_NH, labels_N = hidden_BSH.flatten(0, 1)[found_N], labels_N[found_N]

        def losses_of(hidden_RH: torch.Tensor, labels_R: torch.Tensor) -> torch.Tensor:
            logits_RV = head(hidden_RH).float()
            return functional.cross_entropy(logits_RV, labels_R, reduction="none", ignore_index=IGNORED)

        if len(labels_N) <= self._rows:
            losses_N = losses_of(hidden_NH, labels_N)
        else:
            chunks = zip(hidden_NH.split(self._rows), labels_N.split(self._rows), strict=True)
            losses_N = torch.cat(
                [checkpoint(losses_of, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
            )
        flat = losses_N.new_zeros(labels_BS.numel()).index_copy(0, found_N, losses_N)
        return flat.view(*labels_BS.shape, 1)

    def _gives_what_the_head_gives(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        """Whether numbers that the head gives come out of the model as they are."""
        given: list[torch.Tensor] = []

        def numbers(_: Head, hidden_BSH: torch.Tensor) -> torch.Tensor:
            count = hidden_BSH[..., :1].numel()
            marks = 1.0 + torch.arange(count, device=hidden_BSH.device) % 255  # exact in every floating type
            given.append(marks.view(*hidden_BSH.shape[:-1], 1))
            return given[-1]

        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self._replaced(numbers):
                logits = model(**inputs).logits
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            return False
        finally:
            model.train(was_training)
        return len(given) == 1 and torch.equal(logits.float(), given[0])

    @contextlib.contextmanager
    def _replaced(self, forward: Callable[[Head, torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """The head with another `forward`, which gets its own one as its first argument."""
        head, own = self._head, self._head.forward
        was_set = "forward" in vars(head)
        head.forward = lambda hidden: forward(own, hidden)
        try:
            yield
        finally:
            if was_set:
                head.forward = own
            else:
                del head.forward
