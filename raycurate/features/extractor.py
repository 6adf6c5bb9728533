"""Forward passes to unit feature rows: hook, stop early, share images, survive a row that does not fit.

Algorithm per batch: run each distinct image through the vision tower once and hand its outputs to every slot that
shows it (`inputs.py`); run the decoder with a forward hook on each wanted module; pool inside the hook (only [B,2,H]
per layer is kept, never [B,T,H]); after the last wanted module raise a private exception, so that later layers and the
LM head do not run. Batches that do not fit into memory are halved, rows that fail alone are named (`survival.py`).

Cost: the model's forward up to the last wanted layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raycurate.encoding.inputs import ModelInputs
from raycurate.errors import UserError, unknown_name
from raycurate.features.pooling import VARIANTS, Variant, pool_tokens, unit_rows
from raycurate.features.survival import Columns, SurvivingPass

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch
    from raycurate.models.adapter import VLM


class _StopForward(Exception):
    """Ends a forward pass after the last wanted module."""


@dataclass(frozen=True, eq=False)
class ExtractedRows:
    """Features of a batch, in its row order: float16 [n, D] (zero where failed), ok [n], a reason or None per row."""

    keys: tuple[str, ...]
    rows: tuple[int, ...]
    features_ND: np.ndarray
    ok_N: np.ndarray
    reasons: tuple[str | None, ...]
    details: tuple[str | None, ...]


def _auto(vlm: VLM, variant: Variant) -> tuple[int, ...]:
    """`auto_layers` of the layers that can be hooked: of a hybrid decoder those with attention."""
    from raycurate.models.adapter import auto_layers

    usable = list(range(vlm.num_layers)) if variant == "ffn" else vlm.attention_layers
    return tuple(usable[i] for i in auto_layers(len(usable)))


class ActivationExtractor:
    """Runs one model over prepared batches."""

    def __init__(self, vlm: VLM, layers: Sequence[int] | None = None, variant: Variant = "attn") -> None:
        """Resolve the modules to hook.

        Args:
            vlm: a loaded model.
            layers: decoder layers, 0-based; None takes `auto_layers`. `last_layer` ignores it and takes the last.
            variant: what to pool, see `pooling.py`.

        Raises:
            UserError: unknown variant, repeated layers, or a layer that cannot be hooked.
        """
        if variant not in VARIANTS:
            raise unknown_name("feature variant", variant, VARIANTS)
        if variant == "last_layer":
            chosen: tuple[int, ...] = (vlm.num_layers - 1,)
        else:
            chosen = _auto(vlm, variant) if layers is None else tuple(layers)
        if not chosen or len(set(chosen)) != len(chosen):
            raise UserError(f"layers are {list(chosen)}; give at least one layer and each only once.")
        resolve = {"ffn": vlm.feed_forward, "last_layer": vlm.layer}.get(variant, vlm.attention_output)
        self.vlm = vlm
        self.variant: Variant = variant
        self.layers = tuple(sorted(chosen))
        self.num_blocks = 2 * len(self.layers)
        self.feature_dim = self.num_blocks * vlm.hidden_size
        self._modules = [resolve(layer) for layer in self.layers]
        self._inputs = ModelInputs(vlm)
        self._pass = SurvivingPass(self._forward, {"features": ((self.feature_dim,), np.float16)}, vlm.device)

    def extract(self, batch: PreparedBatch) -> ExtractedRows:
        """Features of every row of `batch`; never fewer rows than it has.

        Raises:
            Exception: the model's own error, if the first 8 rows of this extractor all fail alone.
        """
        made = self._pass(batch)
        ok_N = np.array([reason is None for reason in made.reasons], dtype=bool)
        return ExtractedRows(batch.keys, batch.rows, made.columns["features"], ok_N, made.reasons, made.details)

    @torch.inference_mode()
    def _forward(self, batch: PreparedBatch) -> tuple[Columns, list[str | None]]:
        """One truncated pass over `batch`."""
        visual_BT = (batch.input_ids_BT == self.vlm.image_token_id) & batch.attention_mask_BT
        masks_B2T = torch.stack([visual_BT, batch.text_mask_BT], dim=1)
        pooled: list[torch.Tensor] = []
        with self._hooks(masks_B2T.to(self.vlm.device), pooled), contextlib.suppress(_StopForward):
            self.vlm.model(**self._inputs(batch))
        assert len(pooled) == len(self._modules), "the model did not run every hooked module"
        means_BM2H = torch.stack(pooled, dim=1)
        features_BD, reasons = unit_rows(means_BM2H, masks_B2T.sum(dim=2).to(means_BM2H.device), self.variant)
        return {"features": features_BD.cpu().numpy()}, reasons

    @contextlib.contextmanager
    def _hooks(self, masks_B2T: torch.Tensor, pooled: list[torch.Tensor]) -> Iterator[None]:
        """Pool the output of each wanted module into `pooled`, stop after the last, take the hooks off again."""

        def pooling_hook(is_last: bool) -> Callable[[Any, Any, Any], None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                activations = output[0] if isinstance(output, tuple) else output
                # Mixture-of-experts layers hand out [B*T, H].
                shape = (masks_B2T.shape[0], masks_B2T.shape[2], activations.shape[-1])
                pooled.append(pool_tokens(activations.reshape(shape), masks_B2T))
                if is_last:
                    raise _StopForward

            return hook

        last = len(self._modules) - 1
        handles = [m.register_forward_hook(pooling_hook(i == last)) for i, m in enumerate(self._modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
