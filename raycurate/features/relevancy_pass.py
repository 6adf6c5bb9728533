"""One forward and one backward pass of a model over a row, for the relevancy of its tokens (`relevancy.py`).

The model runs with plain attention, which hands its weights out; a hook on each layer's weights gets their gradient as
the backward pass reaches them, so that a layer's E is made and given up before the next one's. The backward pass ends
at what goes into the first decoder layer: the vision tower takes no part.

Cost: about three forward passes. Memory: activations and 4 H T^2 bytes of weights a layer (bfloat16), as one row at a
time is looked at: 1,000 tokens, 32 heads and 32 layers take 4 GB.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from raycurate.encoding.inputs import ModelInputs
from raycurate.errors import UserError
from raycurate.features.relevancy import Rollout, layer_relevancy

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch
    from raycurate.models.adapter import VLM


@dataclass(frozen=True, eq=False)
class Relevancy:
    """What each token of a row was to its answer.

    Attributes:
        layers: layer -> its m, float32 [T].
        total_T: e R over all layers.
        probability: of a token of the answer, geometric mean.
    """

    layers: dict[int, NDArray[np.float32]]
    total_T: NDArray[np.float32]
    probability: float


class RelevancyPass:
    """Looks at rows of one model that was loaded with plain attention (`load_vlm(..., attention="eager")`)."""

    def __init__(self, vlm: VLM, layers: Sequence[int]) -> None:
        """Choose the layers that are shown alone.

        Raises:
            UserError: a layer that is not there or has no attention.
        """
        for layer in layers:
            vlm.attention_output(layer)
        self._vlm, self._wanted = vlm, frozenset(layers)
        self._inputs = ModelInputs(vlm)
        vlm.model.requires_grad_(False)

    def look(self, batch: PreparedBatch) -> Relevancy:
        """Of a batch of one row, whose text mask marks the tokens of its answer.

        Raises:
            UserError: a model that hands no attention out.
        """
        assert batch.num_rows == 1, "one row at a time"
        answer_T = batch.text_mask_BT[0].bool()
        asking_T = torch.zeros_like(answer_T)
        asking_T[:-1] = answer_T[1:]
        asking_T = asking_T.to(self._vlm.device)
        labels_P = batch.input_ids_BT[0].long()[answer_T].to(self._vlm.device)
        rollout = Rollout(asking_T, self._wanted)
        with torch.enable_grad(), self._listening(rollout) as leaf:
            logits_PV = self._vlm.model(**self._inputs(batch)).logits[0][asking_T].float()
            chosen_P = logits_PV.gather(1, labels_P[:, None])[:, 0]
            torch.autograd.grad(chosen_P.sum(), leaf)
        log_P = torch.log_softmax(logits_PV.detach(), dim=-1).gather(1, labels_P[:, None])
        layers = {layer: each.cpu().numpy() for layer, each in sorted(rollout.layers.items())}
        return Relevancy(layers, rollout.total_T.cpu().numpy(), float(log_P.mean().exp()))

    @contextlib.contextmanager
    def _listening(self, rollout: Rollout) -> Iterator[list[torch.Tensor]]:
        """Within it a forward pass fills what is yielded with the input of the first layer."""
        leaf: list[torch.Tensor] = []

        def begin(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = (args[0] if args else named["hidden_states"]).detach().requires_grad_()
            leaf.append(hidden)
            return ((hidden, *args[1:]), named) if args else (args, {**named, "hidden_states": hidden})

        with contextlib.ExitStack() as stack:
            stack.callback(self._vlm.layers[0].register_forward_pre_hook(begin, with_kwargs=True).remove)
            for layer in self._vlm.attention_layers:
                hook = functools.partial(self._heard, layer, rollout)
                stack.callback(self._vlm.layers[layer].self_attn.register_forward_hook(hook).remove)
            yield leaf

    def _heard(self, layer: int, rollout: Rollout, _module: Any, _inputs: Any, output: Any) -> None:
        """Hook after a layer's attention: wait for the gradient of its weights."""
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, torch.Tensor) or weights.ndim != 4:
            raise UserError(
                f"layer {layer} of {self._vlm.name} ({self._vlm.model_type}) hands no attention out, so it cannot be "
                "told what its answers look at. Choose another model with --relevancy-model."
            )

        def arrived(gradient_1HTT: torch.Tensor) -> None:
            rollout.add(layer, layer_relevancy(weights.detach()[0], gradient_1HTT[0]))

        weights.register_hook(arrived)
