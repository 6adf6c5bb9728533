"""One forward pass to the numbers that selection methods rank by: token losses, margins, last-layer embeddings.

For the T answer tokens y_t of a row, with p_t the model's distribution at the position before y_t:

    loss = mean_t -ln p_t[y_t]
    EL2N = mean_t ||p_t - onehot(y_t)||_2
    AUM  = mean_t (p_t[y_t] - max_{v != y_t} p_t[v])

(EL2N by the closed form of `selection/methods/el2n.py`: sqrt(sum_{v != y} p_v^2 + (1 - p_y)^2), no one-hot is made.)
With h the output of the last decoder layer after its norm, what the LM head reads:

    last_token = h at the last real token      mean_token = mean of h over all real tokens
    weighted_token = sum_t t h_t / sum_t t over the real tokens t = 1 .. T          all scaled to length 1

`visual` and `attended` come from the first layer (`first_layer.py`) of the same pass, which ends there if nothing else
is wanted.

The last real token is the one that ends the last answer's turn; padding is neither read nor averaged, whichever side
it is on. Answers of all turns count alike, token by token, as in the loss of a training on the row.

With `gradients` the same pass also gives the norm and the sketch of each row's gradient (`gradient_sketches.py`).

The network runs once, without its LM head: a hook on the head takes its input and ends the pass. The head then runs on
the positions before answer tokens only, `CHUNK_BYTES` of float32 logits at a time. That is right where logits are the
head's output and nothing more, so the first batch is compared with the model's own logits. A model that scales or caps
them makes them itself, for all positions that come before an answer's token in any row; its gradients are refused.

Cost: one forward pass, plus 2 * H * V FLOP per answer token. Memory: the pass, [B,T,H] once more, and CHUNK_BYTES * 3.
Sums over tokens are float64. Numbers of a row can differ in the last bits with its batch; batches follow from rows.

Shapes: B rows, T tokens, P answer tokens of the batch, H decoder width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raycurate.encoding.inputs import ModelInputs
from raycurate.errors import UserError
from raycurate.features.first_layer import ATTENDED, EARLY, FirstLayer, StopForward, Watched
from raycurate.features.gradient_sketches import GradientSketcher, loss_gradient
from raycurate.features.pooling import pool_tokens
from raycurate.features.survival import Columns, RowResults, SurvivingPass

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch
    from raycurate.models.adapter import VLM

TOKEN_LOSSES = ("loss", "el2n", "aum", "answer_tokens")
EMBEDDED = ("last_token", "mean_token", "weighted_token")
LENGTH = "attended_length"
GRADIENT_NORM, GRADIENT_SKETCH = "gradient_norm", "gradient_sketch"
CHUNK_BYTES = 256 << 20
_HEAD_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class _Logits:
    """A model's own logits [B,P,V] of the positions `at_P`, ascending, of every row."""

    logits_BPV: torch.Tensor
    at_P: torch.Tensor

    def at(self, rows_N: torch.Tensor, positions_N: torch.Tensor) -> torch.Tensor:
        """Those of single positions, [N,V]."""
        columns_N = torch.searchsorted(self.at_P, positions_N)
        return self.logits_BPV[rows_N.to(self.logits_BPV.device), columns_N.to(self.logits_BPV.device)]


class TokenScorer:
    """Scores batches of `token_batches.AnswerPreparer` with one model."""

    def __init__(
        self,
        vlm: VLM,
        *,
        losses: bool = True,
        embeddings: tuple[str, ...] = EMBEDDED,
        gradients: GradientSketcher | None = None,
    ) -> None:
        """Choose what is computed: the token losses, which of `EMBEDDED` and of `EARLY`, and sketches of gradients.

        Raises:
            UserError: a model without an LM head, or whose first layer cannot be looked at where that is wanted.
        """
        self.vlm, self.losses, self.gradients = vlm, losses, gradients
        self.embeddings = tuple(name for name in embeddings if name in EMBEDDED)
        early = tuple(name for name in embeddings if name in EARLY)
        self._ends_early = bool(early) and not losses and not self.embeddings and gradients is None
        self._first_layer = FirstLayer(vlm, early, ends=self._ends_early) if early else None
        head = vlm.model.get_output_embeddings()
        if head is None:
            raise UserError(f"{vlm.name} ({vlm.model_type}) has no LM head, so its answers have no loss.")
        self._head: Any = head
        self._plain = not losses  # until a batch has told
        self._keeps = "logits_to_keep" in inspect.signature(vlm.model.forward).parameters
        self._inputs = ModelInputs(vlm)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = dict.fromkeys(TOKEN_LOSSES if losses else (), ((), np.float64))
        shapes |= dict.fromkeys(embeddings, ((vlm.hidden_size,), np.float16))
        shapes |= {LENGTH: ((), np.float32)} if ATTENDED in early else {}
        if gradients is not None:
            shapes |= {GRADIENT_NORM: ((), np.float64), GRADIENT_SKETCH: ((gradients.width**2,), np.float16)}
        self._pass = SurvivingPass(self._forward, shapes, vlm.device)
        self._checked = not losses and gradients is None

    def score(self, batch: PreparedBatch) -> RowResults:
        """Numbers of every row of `batch`; they need not be finite, a row's embedding of no length is zero.

        Such is an embedding of the first layer of a row without an image.

        Raises:
            UserError: the model's logits are not those of its head, and gradients are wanted.
            Exception: the model's own error, if the first 8 rows all fail alone.
        """
        if not self._checked:
            shortest = int(batch.attention_mask_BT.sum(dim=1).argmin())
            self._checked = self._check_head(batch.take(shortest, shortest + 1))
        return self._pass(batch)

    def _forward(self, batch: PreparedBatch) -> tuple[Columns, list[str | None]]:
        guard = torch.inference_mode if self.gradients is None else torch.no_grad
        watching = contextlib.nullcontext() if self._first_layer is None else self._first_layer.watching(batch)
        columns: Columns = {}
        with guard(), watching as early:
            if self._ends_early:
                with contextlib.suppress(StopForward):
                    self.vlm.model(**self._inputs(batch))
            elif self.gradients is None:
                hidden_BTH, logits = (self._hidden(batch), None) if self._plain else self._with_logits(batch)
                columns |= self._answers(hidden_BTH, batch, logits)[0] | self._embedded(hidden_BTH, batch)
            else:
                columns |= self._with_gradients(batch, self.gradients)
            return columns | _early_columns(early), [None] * batch.num_rows

    def _with_gradients(self, batch: PreparedBatch, sketcher: GradientSketcher) -> Columns:
        """The same from the same pass, and what is passed back from its losses."""
        predicts_BT = torch.zeros_like(batch.text_mask_BT, dtype=torch.bool)
        predicts_BT[:, :-1] = batch.text_mask_BT[:, 1:]
        with sketcher.listening(predicts_BT, batch.attention_mask_BT.bool()) as recording:
            hidden_BTH = self._hidden(batch)
        columns, gradient_BTH = self._answers(hidden_BTH.detach(), batch)
        columns |= self._embedded(hidden_BTH.detach(), batch)
        norm_B, sketch_BD = recording.finish(hidden_BTH, gradient_BTH)
        return columns | {GRADIENT_NORM: norm_B, GRADIENT_SKETCH: sketch_BD}

    def _hidden(self, batch: PreparedBatch) -> torch.Tensor:
        """The LM head's input, [B,T,H]."""
        found: list[torch.Tensor] = []
        with self._caught(found), contextlib.suppress(StopForward):
            self.vlm.model(**self._inputs(batch))
        assert found, "the model did not run its LM head"
        return found[0]

    def _with_logits(self, batch: PreparedBatch) -> tuple[torch.Tensor, _Logits]:
        """The LM head's input, and the model's own logits of the positions before answers' tokens.

        Where no embedding needs the other positions, the head does not see them either.
        """
        at_P = batch.text_mask_BT[:, 1:].any(dim=0).nonzero().flatten()
        keeps = self._keeps and not self.embeddings
        found: list[torch.Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
        try:
            given = {"logits_to_keep": at_P.to(self.vlm.device)} if keeps else {}
            logits_BPV = self.vlm.model(**self._inputs(batch), **given).logits
        finally:
            handle.remove()
        return found[0], _Logits(logits_BPV if keeps else logits_BPV[:, at_P.to(logits_BPV.device)], at_P)

    @contextlib.contextmanager
    def _caught(self, found: list[torch.Tensor]) -> Iterator[None]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found.append(inputs[0])
            raise StopForward

        handle = self._head.register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _answers(
        self, hidden_BTH: torch.Tensor, batch: PreparedBatch, own: _Logits | None = None
    ) -> tuple[Columns, torch.Tensor]:
        """Means over the answer tokens of each row, and the gradient of the sum of the rows' losses, [B,T,H]."""
        rows_P, at_P = batch.text_mask_BT[:, 1:].nonzero(as_tuple=True)
        labels_P = batch.input_ids_BT[rows_P, at_P + 1].long()
        counts_B = torch.bincount(rows_P, minlength=batch.num_rows).double()
        size = max(1, CHUNK_BYTES // (4 * self._head.weight.shape[0]))
        sums_B3 = torch.zeros((batch.num_rows, 3), dtype=torch.float64)
        gradient_BTH = torch.zeros_like(hidden_BTH) if self.gradients is not None else hidden_BTH[:0]
        for start in range(0, len(rows_P) if self.losses or self.gradients is not None else 0, size):
            chunk = slice(start, start + size)
            at = rows_P[chunk].to(hidden_BTH.device), at_P[chunk].to(hidden_BTH.device)
            labels = labels_P[chunk].to(hidden_BTH.device)
            if self.gradients is None:
                logits_PV = self._head(hidden_BTH[at]) if own is None else own.at(rows_P[chunk], at_P[chunk])
            else:
                weight_P = (1.0 / counts_B)[rows_P[chunk]].to(labels.device, torch.float32)
                logits_PV, gradient_BTH[at] = loss_gradient(self._head, hidden_BTH[at], labels, weight_P)
            if self.losses:
                sums_B3.index_add_(0, rows_P[chunk], token_statistics(logits_PV, labels).cpu())
        if not self.losses:
            return {}, gradient_BTH
        means_B3 = (sums_B3 / counts_B[:, None]).numpy()
        columns = {name: means_B3[:, i] for i, name in enumerate(TOKEN_LOSSES[:3])}
        return {**columns, "answer_tokens": counts_B.numpy()}, gradient_BTH

    def _embedded(self, hidden_BTH: torch.Tensor, batch: PreparedBatch) -> Columns:
        """Unit rows; not finite or zero where they cannot be made."""
        if not self.embeddings:
            return {}
        real_BT = batch.attention_mask_BT.bool()
        position_T = torch.arange(real_BT.shape[1])
        last_B = torch.where(real_BT, position_T, -1).amax(dim=1)
        last_BT = position_T == last_B[:, None]
        pooled_B2H = pool_tokens(hidden_BTH, torch.stack([last_BT, real_BT], dim=1).to(hidden_BTH.device))
        pooled = dict(zip(EMBEDDED, pooled_B2H.unbind(dim=1), strict=False))
        if "weighted_token" in self.embeddings:
            pooled["weighted_token"] = weighted_mean(hidden_BTH, real_BT.to(hidden_BTH.device))
        return {name: _half_units(pooled[name]) for name in self.embeddings}

    @torch.inference_mode()
    def _check_head(self, batch: PreparedBatch) -> bool:
        """Compare the head's output with the model's logits on one row; whether that row could tell.

        A row for which memory runs out, or whose logits are no numbers, tells nothing: the next batch is asked.
        """
        try:
            expected_TV = self.vlm.model(**self._inputs(batch)).logits[0].float()
            found_TV = self._head(self._hidden(batch)[0]).float()
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # where the row cannot be scored either, it will say why
        real_T = batch.attention_mask_BT[0].bool().to(expected_TV.device)
        difference = (expected_TV - found_TV)[real_T].abs().max()
        if not torch.isfinite(difference):
            return False
        self._plain = bool(difference <= _HEAD_TOLERANCE * expected_TV[real_T].abs().max())
        if not self._plain and self.gradients is not None:
            raise UserError(
                f"{self.vlm.name} ({self.vlm.model_type}) changes its logits after the LM head (by up to "
                f"{float(difference):.3g}), which gradients do not follow. Choose another model or other scores."
            )
        return True


def weighted_mean(hidden_BTH: torch.Tensor, real_BT: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens, each weighted by its number in its row from 1 on, float32 [B,H]."""
    weight_BT = (real_BT.cumsum(dim=1) * real_BT).float()
    kept_BTH = torch.where(real_BT[:, :, None], hidden_BTH, torch.zeros_like(hidden_BTH[:1, :1, :1])).float()
    return torch.bmm(weight_BT[:, None], kept_BTH)[:, 0] / weight_BT.sum(dim=1, keepdim=True)


def _early_columns(early: Watched | None) -> Columns:
    """Unit rows of the first layer's embeddings, and the length of `attended`."""
    found = {} if early is None else early.embeddings
    columns = {name: _half_units(rows_BH) for name, rows_BH in found.items()}
    if ATTENDED in found:
        columns[LENGTH] = torch.linalg.vector_norm(found[ATTENDED].float(), dim=1).cpu().numpy()
    return columns


def _half_units(rows_BH: torch.Tensor) -> np.ndarray:
    """Rows of length 1, float16; a row of zeros stays one."""
    units: np.ndarray = torch.nn.functional.normalize(rows_BH.float(), dim=-1).to(torch.float16).cpu().numpy()
    return units


def token_statistics(logits_PV: torch.Tensor, labels_P: torch.Tensor) -> torch.Tensor:
    """Loss, EL2N and margin of each token, float64 [P, 3]; the logits may be of any floating dtype."""
    log_PV = torch.log_softmax(logits_PV.float(), dim=-1)
    label_P1 = labels_P[:, None]
    label_log_P = log_PV.gather(1, label_P1)[:, 0].double()
    others_PV = log_PV.exp_().scatter_(1, label_P1, 0.0)
    label_P = label_log_P.exp()
    square_P = torch.linalg.vector_norm(others_PV, dim=-1).double() ** 2
    el2n_P = torch.sqrt(square_P + torch.expm1(label_log_P) ** 2)
    return torch.stack([-label_log_P, el2n_P, label_P - others_PV.amax(dim=-1).double()], dim=1)
