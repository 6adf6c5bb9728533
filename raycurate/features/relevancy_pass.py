"""One forward and one backward pass of a model over a row, for the relevancy of its tokens (`relevancy.py`).

The model runs with plain attention, which hands its weights out; a hook on each layer's weights gets their gradient as
the backward pass reaches them, so that a layer's E is made and given up before the next one's. The backward pass ends
at what goes into the first decoder layer, or, for a row of one image and a tower like CLIP's or SigLIP's that has a
position for each visual token (LLaVA and its like), at what goes into the tower's first layer. Other towers are not
followed, and it is said why: Qwen-VL, InternVL and SmolVLM lay the features of m x m patches side by side and make a
token of them by an MLP. There is no attention in that step, so Eq. 8 does not say which part of a token's relevancy is
which patch's, and an even split would be an assumption that the map does not show.

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
from torch import nn

from raycurate.encoding.inputs import ModelInputs
from raycurate.errors import UserError
from raycurate.features.relevancy import Rollout, layer_relevancy

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch
    from raycurate.models.adapter import VLM

MERGES = ("spatial_merge_size", "downsample_ratio", "scale_factor")
"""Settings of models that merge patches to tokens: of Qwen-VL, of InternVL, of SmolVLM and Idefics 3."""
MERGED = "its tower merges patches to tokens, and attention does not say which part of a token is which patch's"
OTHER_TOWER = "its tower is of a kind whose attention is not known here"
OTHER_POSITIONS = "its tower has other positions than the picture has tokens"
SEVERAL = "the row has several pictures"


@dataclass(frozen=True, eq=False)
class Relevancy:
    """What each token of a row was to its answer.

    Attributes:
        layers: layer -> its m, float32 [T].
        total_T: e R over all layers.
        tower_V: t of each visual token's patch; None where the tower is not followed.
        not_followed: why the tower is not, else empty.
        probability: of a token of the answer, geometric mean.
    """

    layers: dict[int, NDArray[np.float32]]
    total_T: NDArray[np.float32]
    tower_V: NDArray[np.float32] | None
    not_followed: str
    probability: float


class _Seen:
    """What is gathered of one row: the decoder's layers, then those of the vision tower."""

    def __init__(self, decoder: Rollout, visual_T: torch.Tensor) -> None:
        self.decoder = decoder
        self._visual_T = visual_T
        self._tower: Rollout | None = None
        self._skipped = 0

    def heard(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Hook after an attention of the tower, of one picture in one piece: wait for the gradient of its weights."""
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.ndim == 4 and len(weights) == 1 and weights.requires_grad:
            weights.register_hook(functools.partial(self._arrived, weights.detach()[0]))

    def _arrived(self, weights_HPP: torch.Tensor, gradient_1HPP: torch.Tensor) -> None:
        value_V = self.decoder.total_T[self._visual_T]
        if self._tower is None:
            self._skipped = weights_HPP.shape[-1] - len(value_V)
            if self._skipped not in (0, 1):  # patches are merged to tokens, or there are other positions
                return
            self._tower = Rollout(torch.cat([value_V.new_zeros(self._skipped), value_V]))
        self._tower.add(0, layer_relevancy(weights_HPP, gradient_1HPP[0]))

    def brought(self) -> torch.Tensor | None:
        """t of each visual token's patch."""
        return None if self._tower is None else self._tower.brought_T[self._skipped :]


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
        self._tower = _tower_of(vlm.model)
        self._why_not = "" if self._tower else _why_not(vlm.model.config)
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
        visual_T = (batch.input_ids_BT[0] == self._vlm.image_token_id).to(self._vlm.device)
        seen = _Seen(Rollout(asking_T.float() / asking_T.sum(), self._wanted), visual_T)
        alone = len(batch.image_index_S) == 1
        followed = self._tower if alone else []
        with torch.enable_grad(), self._listening(seen, followed) as leaf:
            logits_PV = self._vlm.model(**self._inputs(batch)).logits[0][asking_T].float()
            chosen_P = logits_PV.gather(1, labels_P[:, None])[:, 0]
            torch.autograd.grad(chosen_P.sum(), leaf[:1])
        log_P = torch.log_softmax(logits_PV.detach(), dim=-1).gather(1, labels_P[:, None])
        layers = {layer: each.cpu().numpy() for layer, each in sorted(seen.decoder.layers.items())}
        tower_V = seen.brought()
        return Relevancy(
            layers=layers,
            total_T=seen.decoder.total_T.cpu().numpy(),
            tower_V=None if tower_V is None else tower_V.cpu().numpy(),
            not_followed="" if tower_V is not None else self._why_not or (OTHER_POSITIONS if alone else SEVERAL),
            probability=float(log_P.mean().exp()),
        )

    @contextlib.contextmanager
    def _listening(self, seen: _Seen, tower: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
        """Within it a forward pass fills what is yielded with where the backward pass ends, first of all."""
        leaf: list[torch.Tensor] = []

        def begin(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = args[0] if args else named["hidden_states"]
            if not leaf:
                hidden = hidden.detach().requires_grad_()
                leaf.append(hidden)
            return ((hidden, *args[1:]), named) if args else (args, {**named, "hidden_states": hidden})

        with contextlib.ExitStack() as stack:
            for first in (*tower[:1], self._vlm.layers[0]):
                stack.callback(first.register_forward_pre_hook(begin, with_kwargs=True).remove)
            for layer in self._vlm.attention_layers:
                hook = functools.partial(self._heard, layer, seen.decoder)
                stack.callback(self._vlm.layers[layer].self_attn.register_forward_hook(hook).remove)
            for each in tower:
                stack.callback(each.self_attn.register_forward_hook(seen.heard).remove)
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


def _why_not(config: Any) -> str:
    """Why the tower of such a model is not followed, by what its config says of it."""
    parts = (config, getattr(config, "vision_config", None))
    merged = any(getattr(part, name, None) not in (None, 1) for part in parts for name in MERGES)
    return MERGED if merged else OTHER_TOWER


def _tower_of(network: Any) -> list[nn.Module]:
    """The layers of a vision tower like CLIP's; none where it is of another kind."""
    tower = getattr(getattr(network, "model", network), "vision_tower", None)
    encoder = getattr(getattr(tower, "vision_model", tower), "encoder", None)
    layers = getattr(encoder, "layers", ())
    return list(layers) if all(hasattr(layer, "self_attn") for layer in layers) else []
