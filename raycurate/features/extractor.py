"""Forward passes to unit feature rows: hook, stop early, share images, survive a row that does not fit.

Algorithm per batch: run each distinct image through the vision tower once and hand its outputs to every slot that
shows it; run the decoder with a forward hook on each wanted module; pool inside the hook (only [B,2,H] per layer is
kept, never [B,T,H]); after the last wanted module raise a private exception, so that later layers and the LM head do
not run. Sharing uses the `mm_encoder_outputs` argument of transformers' own forwards; families that are not known to
read only the pooled outputs get their pixels repeated instead.

Memory: out-of-memory on a GPU or a CPU splits the batch in halves, and batches of that size are split at once from
then on. A row that fails alone is returned as failed with its reason. If the first 8 rows all fail, the model and the
settings do not fit each other and the error is raised.

Cost: the model's forward up to the last wanted layer. For LLaVA-like decoders padded on the right no attention mask
is passed, so that SDPA takes its causal kernel: real tokens never see the padding behind them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raycurate.errors import UserError, unknown_name
from raycurate.features.pooling import VARIANTS, Variant, pool_tokens, unit_rows

if TYPE_CHECKING:
    from raycurate.features.batch import PreparedBatch
    from raycurate.models.adapter import VLM

OUT_OF_MEMORY = "out_of_memory"
FORWARD_ERROR = "forward_error"
_PATIENCE = 8


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
        from raycurate.models.adapter import auto_layers

        if variant not in VARIANTS:
            raise unknown_name("feature variant", variant, VARIANTS)
        if variant == "last_layer":
            chosen: tuple[int, ...] = (vlm.num_layers - 1,)
        else:
            chosen = tuple(auto_layers(vlm.num_layers) if layers is None else layers)
        if not chosen or len(set(chosen)) != len(chosen):
            raise UserError(f"layers are {list(chosen)}; give at least one layer and each only once.")
        resolve = {"ffn": vlm.feed_forward, "last_layer": vlm.layer}.get(variant, vlm.attention_output)
        self.vlm = vlm
        self.variant: Variant = variant
        self.layers = tuple(sorted(chosen))
        self.num_blocks = 2 * len(self.layers)
        self.feature_dim = self.num_blocks * vlm.hidden_size
        self._modules = [resolve(layer) for layer in self.layers]
        self._accepts = frozenset(inspect.signature(vlm.model.forward).parameters)
        self._inner = getattr(vlm.model, "model", vlm.model)
        self._max_tokens: int | None = None
        self._succeeded = False
        self._failures = 0

    def extract(self, batch: PreparedBatch) -> ExtractedRows:
        """Features of every row of `batch`; never fewer rows than it has.

        Raises:
            Exception: the model's own error, if the first 8 rows of this extractor all fail alone.
        """
        features_ND = np.zeros((batch.num_rows, self.feature_dim), dtype=np.float16)
        reasons: list[str | None] = [None] * batch.num_rows
        details: list[str | None] = [None] * batch.num_rows
        pending = [(0, batch.num_rows)]
        while pending:
            start, stop = pending.pop()
            part = batch if stop - start == batch.num_rows else batch.take(start, stop)
            if self._is_too_large(part):
                pending += _halves(start, stop)
                continue
            result = self._try_forward(part)
            if not isinstance(result, Exception):
                features_ND[start:stop], reasons[start:stop] = result
                self._succeeded = True
                continue
            if stop - start > 1:
                pending += _halves(start, stop)
                continue
            self._failures += 1
            if self._failures >= _PATIENCE and not self._succeeded:
                raise result
            reasons[start] = OUT_OF_MEMORY if _is_out_of_memory(result) else FORWARD_ERROR
            details[start] = f"{type(result).__name__}: {' '.join(str(result).split())[:300]}"
        ok_N = np.array([reason is None for reason in reasons], dtype=bool)
        return ExtractedRows(batch.keys, batch.rows, features_ND, ok_N, tuple(reasons), tuple(details))

    def _is_too_large(self, part: PreparedBatch) -> bool:
        return self._max_tokens is not None and part.num_rows > 1 and part.num_tokens >= self._max_tokens

    def _try_forward(self, part: PreparedBatch) -> tuple[np.ndarray, list[str | None]] | Exception:
        """Features and reasons, or the error; memory of a failed pass is free again on return."""
        try:
            return self._forward(part)
        except (RuntimeError, ValueError, IndexError, StopIteration, TypeError) as error:
            if isinstance(error, torch.AcceleratorError) and not _is_out_of_memory(error):
                raise  # the device is lost; no smaller batch will help
            error.__traceback__ = None  # frames hold the activations of the failed pass
            failure: Exception = error
        if _is_out_of_memory(failure):
            if part.num_rows > 1:
                self._max_tokens = min(self._max_tokens or part.num_tokens, part.num_tokens)
            if self.vlm.device.type == "cuda":
                torch.cuda.empty_cache()
        return failure

    @torch.inference_mode()
    def _forward(self, batch: PreparedBatch) -> tuple[np.ndarray, list[str | None]]:
        """One truncated pass over `batch`."""
        visual_BT = (batch.input_ids_BT == self.vlm.image_token_id) & batch.attention_mask_BT
        masks_B2T = torch.stack([visual_BT, batch.text_mask_BT], dim=1)
        pooled: list[torch.Tensor] = []
        with self._hooks(masks_B2T.to(self.vlm.device), pooled), contextlib.suppress(_StopForward):
            self.vlm.model(**self._model_inputs(batch))
        assert len(pooled) == len(self._modules), "the model did not run every hooked module"
        means_BM2H = torch.stack(pooled, dim=1)
        features_BD, reasons = unit_rows(means_BM2H, masks_B2T.sum(dim=2).to(means_BM2H.device), self.variant)
        return features_BD.cpu().numpy(), reasons

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

    def _model_inputs(self, batch: PreparedBatch) -> dict[str, Any]:
        """Keyword arguments of the model's forward, on its device."""
        slots = batch.image_index_S.tolist()
        share = self.vlm.shares_images and len(slots) > len(batch.image_tokens_U)
        per_slot = batch.images_at(slots, pixels=not share)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids_BT.long()}
        if not (self.vlm.causal and batch.right_padded):
            inputs["attention_mask"] = batch.attention_mask_BT.long()
        if batch.mm_token_type_ids_BT is not None:
            renamed = "mm_token_type_ids" if "mm_token_type_ids" in self._accepts else "token_type_ids"
            inputs[renamed] = batch.mm_token_type_ids_BT.long()
        position_ids = self._position_ids(batch, per_slot)
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        inputs |= _nest(per_slot, batch.nested_images)
        inputs = {name: self._to_device(value) for name, value in inputs.items() if name in self._accepts}
        if share:
            inputs["mm_encoder_outputs"] = {"image": self._encode_once(batch, slots)}
        return inputs

    def _position_ids(self, batch: PreparedBatch, per_slot: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Multi-axis rotary positions of Qwen-VL models, computed on the CPU where their row loop needs no sync."""
        rope_index = getattr(self._inner, "get_rope_index", None)
        if rope_index is None or not self.vlm.causal or "image_grid_thw" not in per_slot:
            return None
        assert batch.mm_token_type_ids_BT is not None, "Qwen-VL processors mark image tokens"
        positions, _ = rope_index(
            input_ids=batch.input_ids_BT.long(),
            mm_token_type_ids=batch.mm_token_type_ids_BT.long(),
            image_grid_thw=per_slot["image_grid_thw"].long(),
            attention_mask=batch.attention_mask_BT.long(),
        )
        return positions

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self.vlm.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.vlm.device, dtype=dtype, non_blocking=True)

    def _encode_once(self, batch: PreparedBatch, slots: list[int]) -> Any:
        """Encoder outputs with one entry per slot, from one pass over the distinct images."""
        accepted = inspect.signature(self._inner.get_image_features).parameters
        tensors = _nest(batch.image_inputs, batch.nested_images)
        encoded = self._inner.get_image_features(
            **{name: self._to_device(value) for name, value in tensors.items() if name in accepted}, return_dict=True
        )
        stops = batch.image_tokens_U.long().cumsum(0).tolist()
        starts = [0, *stops[:-1]]
        index = torch.cat([torch.arange(starts[u], stops[u]) for u in slots]).to(self.vlm.device)
        encoded.pooler_output = _spread(encoded.pooler_output, index, stops[-1])
        if getattr(encoded, "deepstack_features", None) is not None:
            encoded.deepstack_features = [_spread(each, index, stops[-1]) for each in encoded.deepstack_features]
        return encoded


def _spread(features: Any, index: torch.Tensor, num_tokens: int) -> Any:
    """Token features of distinct images, as a tensor or a list of tensors, to those of slots in the same form."""
    is_tensor = isinstance(features, torch.Tensor)
    tokens = features if is_tensor else torch.cat([each.reshape(-1, each.shape[-1]) for each in features])
    flat = tokens.reshape(-1, tokens.shape[-1])
    if flat.shape[0] != num_tokens:
        raise ValueError(f"the vision tower gave {flat.shape[0]} tokens for {num_tokens} image placeholders")
    return flat[index] if is_tensor else [flat[index]]


def _nest(tensors: dict[str, torch.Tensor], nested: bool) -> dict[str, torch.Tensor]:
    """Add the leading axis that SmolVLM-like models expect."""
    return {name: value.unsqueeze(0) for name, value in tensors.items()} if nested else dict(tensors)


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    """Two halves of a range of rows, the first one last: a stack gives it out first."""
    middle = (start + stop) // 2
    return [(middle, stop), (start, middle)]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
