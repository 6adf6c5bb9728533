"""What the first decoder layer is given and makes of an image: two embeddings for a fraction of a forward pass.

    visual    = mean over the visual tokens of the layer's input: what the vision tower and its projector give
    attended  = mean over the tokens A of the layer's output
    a_v       = mean over heads and asking tokens q of the layer's attention from q to the visual token v
    A         = the fewest visual tokens, by descending a_v, that hold `MASS` of sum_v a_v

An asking token is text behind the first visual token that belongs to no answer and is no special token: the question
and what the template writes around it. A row in which no token asks (its image comes last) takes all visual tokens. A
row without an image has no embedding: it is zero.

The layer's attention runs as it is; a function of transformers' own registry looks at its queries and keys on the way
and computes the weights of the asking tokens alone, under the layer's own mask. Both embeddings come out of one pass,
which goes on to the head only where something of the last layer is wanted too.

Cost: the vision tower and, for `attended`, one layer and 2 Q T H FLOP more for Q asking tokens. Memory: `CHUNK_BYTES`
of weights. Arithmetic is float32. `visual` leaves as a unit row, `attended` as a unit row and its length, which
ScalSelect's arithmetic wants back.

Shapes: B rows, T tokens, H width, Q asking tokens, N heads, G heads of keys, E width of a head.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from raycurate.errors import UserError
from raycurate.features.pooling import pool_tokens

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch
    from raycurate.models.adapter import VLM

VISUAL, ATTENDED = "visual", "attended"
EARLY = (VISUAL, ATTENDED)
MASS = 0.9
CHUNK_BYTES = 64 << 20
_WATCHED = "raycurate_watched"
_SLACK = 1e-6


class StopForward(Exception):
    """Ends a forward pass once all that is wanted of it is there."""


@dataclass(eq=False)
class Watched:
    """What was seen of one batch: embeddings [B, H] by name, before they are scaled."""

    visual_BT: torch.Tensor
    asking_BT: torch.Tensor
    real_BT: torch.Tensor
    mass_BT: torch.Tensor | None = None
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)


class FirstLayer:
    """Looks on as the first decoder layer of a model runs."""

    def __init__(self, vlm: VLM, names: Sequence[str], *, ends: bool) -> None:
        """Choose what is wanted.

        Args:
            vlm: a loaded model.
            names: some of `EARLY`.
            ends: whether the pass ends once they are there.

        Raises:
            UserError: `attended` of a model whose first layer has no attention that can be looked at.
        """
        self._vlm, self._names, self._ends = vlm, tuple(names), ends
        self._layer = vlm.layer(0)
        self._attention = _watchable(vlm) if ATTENDED in names else None
        self._special = torch.tensor(sorted({int(i) for i in vlm.processor.tokenizer.all_special_ids}))

    @contextlib.contextmanager
    def watching(self, batch: PreparedBatch) -> Iterator[Watched]:
        """Within it a forward pass of the batch fills what is yielded, and may end with `StopForward`."""
        found = self._masks(batch)
        with contextlib.ExitStack() as stack:
            if VISUAL in self._names:
                handle = self._layer.register_forward_pre_hook(self._before(found), with_kwargs=True)
                stack.callback(handle.remove)
            if self._attention is not None:
                stack.enter_context(_watched_attention(self._attention, found))
                stack.callback(self._layer.register_forward_hook(self._after(found)).remove)
            yield found

    def _masks(self, batch: PreparedBatch) -> Watched:
        real_BT = batch.attention_mask_BT.bool()
        visual_BT = (batch.input_ids_BT == self._vlm.image_token_id) & real_BT
        silent_BT = batch.text_mask_BT.bool() | torch.isin(batch.input_ids_BT.long(), self._special) | visual_BT
        asking_BT = real_BT & (visual_BT.cumsum(dim=1) > 0) & ~silent_BT
        device = self._vlm.device
        return Watched(visual_BT.to(device), asking_BT.to(device), real_BT.to(device))

    def _before(self, found: Watched) -> Callable[..., None]:
        def hook(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden_BTH = inputs[0] if inputs else named["hidden_states"]
            found.embeddings[VISUAL] = pool_tokens(hidden_BTH.detach(), found.visual_BT[:, None])[:, 0]
            if self._ends and self._attention is None:
                raise StopForward

        return hook

    def _after(self, found: Watched) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            assert found.mass_BT is not None, "the first layer did not run its attention"
            hidden_BTH = output[0] if isinstance(output, tuple) else output
            chosen_BT = most_attended(found.mass_BT, found.visual_BT)
            found.embeddings[ATTENDED] = pool_tokens(hidden_BTH.detach(), chosen_BT[:, None])[:, 0]
            if self._ends:
                raise StopForward

        return hook


def most_attended(mass_BT: torch.Tensor, visual_BT: torch.Tensor) -> torch.Tensor:
    """The fewest visual tokens that hold `MASS` of the attention, the first ones of equal mass; all where it is 0."""
    held_BT = torch.where(visual_BT, mass_BT.double(), torch.full_like(mass_BT, -1.0).double())
    sorted_BT, order_BT = held_BT.sort(dim=1, descending=True, stable=True)
    sorted_BT = sorted_BT.clamp_min(0.0)
    before_BT = sorted_BT.cumsum(dim=1) - sorted_BT
    total_B1 = sorted_BT.sum(dim=1, keepdim=True)
    wanted_BT = (before_BT < total_B1 * MASS * (1 - _SLACK)) | (total_B1 == 0)
    chosen_BT = torch.zeros_like(visual_BT).scatter_(1, order_BT, wanted_BT)
    return chosen_BT & visual_BT


def _watchable(vlm: VLM) -> Any:
    """The attention of the first layer; `UserError` where its queries and keys cannot be looked at."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = getattr(vlm.layer(0), "self_attn", None)
    kind = getattr(getattr(attention, "config", None), "_attn_implementation", None)
    if kind not in ALL_ATTENTION_FUNCTIONS:
        raise UserError(
            f"the attention of the first layer of {vlm.name} ({vlm.model_type}) cannot be looked at, which the "
            "embedding 'attended' needs. Choose a model whose decoder has torch's fused attention in every layer."
        )
    return attention


@contextlib.contextmanager
def _watched_attention(attention: Any, found: Watched) -> Iterator[None]:
    """Within it the attention hands its queries and keys over before it goes on as it is."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = attention.config
    plain = ALL_ATTENTION_FUNCTIONS[config._attn_implementation]

    def watched(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
    ) -> Any:
        scaling = settings.get("scaling") or query.shape[-1] ** -0.5
        found.mass_BT = visual_mass(query.detach(), key.detach(), mask, scaling, found)
        return plain(module, query, key, value, mask, **settings)

    ALL_ATTENTION_FUNCTIONS[_WATCHED] = watched
    attention.config = copy.copy(config)
    attention.config._attn_implementation = _WATCHED
    try:
        yield
    finally:
        attention.config = config
        del ALL_ATTENTION_FUNCTIONS[_WATCHED]


def visual_mass(
    query_BNTE: torch.Tensor, key_BGTE: torch.Tensor, mask: torch.Tensor | None, scaling: float, found: Watched
) -> torch.Tensor:
    """The attention that each visual token gets from the asking tokens of its row: summed over these, mean over heads.

    Args:
        query_BNTE: queries as the attention takes them.
        key_BGTE: keys, one for several heads of queries where G < N.
        mask: of the layer, true or 0 where a query may look; None for a causal one.
        scaling: of the products.
        found: which tokens are visual, which ask, which are no padding.

    Returns:
        float32 [B, T], 0 for tokens that are not visual.
    """
    heads, tokens = query_BNTE.shape[1], query_BNTE.shape[2]
    total_BT = torch.zeros(found.visual_BT.shape, device=query_BNTE.device)
    size = max(1, CHUNK_BYTES // (4 * heads * tokens))
    for row in range(query_BNTE.shape[0]):
        asking_Q = found.asking_BT[row].nonzero()[:, 0]
        key_NTE = key_BGTE[row].float().repeat_interleave(heads // key_BGTE.shape[1], dim=0)
        for chunk_Q in asking_Q.split(size):
            score_NQT = query_BNTE[row][:, chunk_Q].float() @ key_NTE.transpose(1, 2) * scaling
            score_NQT = _masked(score_NQT, mask, row, chunk_Q, found.real_BT[row])
            total_BT[row] += torch.softmax(score_NQT, dim=-1).mean(dim=0).sum(dim=0)
    return torch.where(found.visual_BT, total_BT, torch.zeros((), device=total_BT.device))


def _masked(
    score_NQT: torch.Tensor, mask: torch.Tensor | None, row: int, chunk_Q: torch.Tensor, real_T: torch.Tensor
) -> torch.Tensor:
    """Scores of the keys that each query may look at, minus infinity elsewhere."""
    if mask is None:
        position_T = torch.arange(score_NQT.shape[2], device=score_NQT.device)
        seen_QT = (position_T <= chunk_Q[:, None]) & real_T
        return score_NQT.masked_fill(~seen_QT, -torch.inf)
    own_NQT = mask[min(row, mask.shape[0] - 1)][:, chunk_Q, : score_NQT.shape[2]]
    return score_NQT.masked_fill(~own_NQT, -torch.inf) if own_NQT.dtype == torch.bool else score_NQT + own_NQT.float()
