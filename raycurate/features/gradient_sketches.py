"""Gradients of single rows from one batched backward pass: their norms, and sketches that keep inner products.

For a linear layer with input a_t and loss gradient d_t at its output, the gradient of one row's loss with respect to
the layer's weight is G = sum_t d_t a_t^T over the row's tokens. A batch's loss is the sum over its rows of the mean
over each row's answer tokens, so rows do not mix, and hooks on the batch give a and d of every row:

    sketch  s = sum over layers of P G Q^T / w = sum_t (P d_t)(Q a_t)^T / w,    P, Q of +1 and -1, w rows each
    norm    ||G||^2 = sum_{s,t} (d_s . d_t)(a_s . a_t),                         added up over layers

so that no G is ever made. Each layer has its own P and Q from a fixed seed; a sketch has w^2 numbers, and E(s . s') is
the inner product of two rows' gradients over all layers (LoGra, arXiv 2405.13954; ghost norms of private training).

`last` sketches the attention output projection of the last layer with attention: the backward pass ends there, and
where no layer follows that mixes tokens only the positions in front of answer tokens have a gradient. `all` sketches
every linear layer of every self-attention in the decoder. The vision tower takes no part.

Gradients are those of the full weights. Those of LoRA's B at its start are G A^T with a random A, which is such a
sketch of one side; A's are zero there.

Cost: forward; the LM head once more and one layer backward (`last`), or the decoder backward for activations (`all`),
about one forward more. Per layer and token 2 w (in + out) FLOP for the sketch and 2 A (in + out) for the norm, with A
the row's tokens. Memory: activations of what is passed backward, P and Q (4 w (in + out) bytes a layer), and
`BLOCK_BYTES` for the products. Arithmetic on a and d is float32 whatever the model's dtype.

Shapes: B rows, T tokens, A tokens of a row with a gradient, I inputs and O outputs of a layer, W the width w.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from raycurate.errors import UserError

if TYPE_CHECKING:
    from raycurate.models.adapter import VLM

SketchedLayers = Literal["last", "all"]
WIDTH = 64
SEED = 20240314
BLOCK_BYTES = 256 << 20


class GradientSketcher:
    """Sketches the gradients of one model; its weights are frozen."""

    def __init__(self, vlm: VLM, *, layers: SketchedLayers = "last", width: int = WIDTH) -> None:
        """Find the layers and draw their projections.

        Raises:
            UserError: a layer that is not linear, such as a quantised one.
        """
        self.width, self._at_answers = width, False
        at = vlm.attention_layers
        if layers == "last":
            self.linears = [_linear(vlm.attention_output(at[-1]), vlm)]
            self._at_answers = at[-1] == vlm.num_layers - 1
            self._first: Any = None
        else:
            modules = [module for layer in at for module in vlm.layers[layer].self_attn.modules()]
            self.linears = [module for module in modules if isinstance(module, nn.Linear)]
            self._first = vlm.layers[0]
            _linear(vlm.attention_output(at[-1]), vlm)
        self.projections = [
            tuple(_signs(width, size, number, side, vlm.device) for side, size in enumerate(linear.weight.shape))
            for number, linear in enumerate(self.linears)
        ]
        vlm.model.requires_grad_(False)

    @contextlib.contextmanager
    def listening(self, answers_BT: torch.Tensor, real_BT: torch.Tensor) -> Iterator[Recording]:
        """Record the layers' inputs in a forward pass, and their gradients in the backward pass from its end.

        Args:
            answers_BT: positions whose output is the loss's: those in front of answer tokens.
            real_BT: positions of tokens.
        """
        recording = Recording(self, answers_BT if self._at_answers else real_BT)
        handles = [
            linear.register_forward_hook(functools.partial(recording.heard, number))
            for number, linear in enumerate(self.linears)
        ]
        if self._first is not None:
            handles.append(self._first.register_forward_pre_hook(recording.begin, with_kwargs=True))
        try:
            with torch.enable_grad():
                yield recording
        finally:
            for handle in handles:
                handle.remove()


class Recording:
    """The gradients of one batch."""

    def __init__(self, sketcher: GradientSketcher, tokens_BT: torch.Tensor) -> None:
        self._sketcher = sketcher
        rows = tokens_BT.shape[0]
        device = sketcher.projections[0][0].device
        longest = max(1, int(tokens_BT.sum(dim=1).max()))
        order_BT = torch.argsort(tokens_BT.to(torch.int8), dim=1, descending=True, stable=True)
        self._at_BA = order_BT[:, :longest].to(device)
        self._valid_BA1 = tokens_BT.gather(1, order_BT)[:, :longest, None].to(device)
        self._sketch_BWW = torch.zeros((rows, sketcher.width, sketcher.width), device=device)
        self._squared_B = torch.zeros(rows, dtype=torch.float64, device=device)
        self._leaf: torch.Tensor | None = None
        self._added = 0

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Hook before the first decoder layer: the backward pass ends at what goes in."""
        hidden = args[0] if args else kwargs["hidden_states"]
        self._leaf = hidden.detach().requires_grad_()
        return ((self._leaf, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": self._leaf})

    def heard(self, number: int, _module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        """Hook after a sketched layer: keep its input, and wait for the gradient of its output."""
        if self._leaf is None:  # nothing before it is sketched
            self._leaf = output = output.detach().requires_grad_()
        input_BAI = self._taken(inputs[0].detach())
        output.register_hook(functools.partial(self._add, number, input_BAI))
        return output

    def finish(self, hidden_BTH: torch.Tensor, gradient_BTH: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Pass the gradient of the decoder's output backward.

        Returns:
            The norm of each row's gradient, float64 [B], and its sketch at length 1 (or 0), float16 [B, W * W].
        """
        assert self._leaf is not None, "the model did not run the layers that are sketched"
        torch.autograd.grad(hidden_BTH, self._leaf, gradient_BTH)
        assert self._added == len(self._sketcher.linears), "a layer that is sketched is not on the way to the loss"
        units_BD = nn.functional.normalize(self._sketch_BWW.flatten(1), dim=1, eps=1e-30)
        return self._squared_B.clamp_min(0).sqrt().cpu().numpy(), units_BD.to(torch.float16).cpu().numpy()

    def _add(self, number: int, input_BAI: torch.Tensor, gradient: torch.Tensor) -> None:
        """Hook on the gradient of a layer's output."""
        self._added += 1
        left_WO, right_WI = self._sketcher.projections[number]
        gradient_BAO = self._taken(gradient)
        rows, tokens = self._at_BA.shape
        step = max(1, BLOCK_BYTES // (8 * tokens * max(tokens, left_WO.shape[1], right_WI.shape[1])))
        for start in range(0, rows, step):
            block = slice(start, start + step)
            in_BAI, out_BAO = input_BAI[block].float(), gradient_BAO[block].float()
            sketch_BWW = torch.bmm((out_BAO @ left_WO.T).mT, in_BAI @ right_WI.T)
            self._sketch_BWW[block] += sketch_BWW / self._sketcher.width
            product_BAA = torch.bmm(out_BAO, out_BAO.mT) * torch.bmm(in_BAI, in_BAI.mT)
            self._squared_B[block] += product_BAA.sum(dim=(1, 2), dtype=torch.float64)

    def _taken(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tokens that have a gradient, [B, A, .], zero behind a row's last one."""
        wide_BTX = tensor.reshape(self._at_BA.shape[0], -1, tensor.shape[-1])
        index_BAX = self._at_BA[:, :, None].expand(-1, -1, wide_BTX.shape[-1])
        taken_BAX = wide_BTX.gather(1, index_BAX)
        return torch.where(self._valid_BA1, taken_BAX, torch.zeros((), dtype=taken_BAX.dtype, device=taken_BAX.device))


def _linear(module: nn.Module, vlm: VLM) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        raise UserError(
            f"gradients of {vlm.name} ({vlm.model_type}) cannot be sketched: its attention output is a "
            f"{type(module).__name__}, not a linear layer. Choose a model that is not quantised."
        )
    return module


def _signs(width: int, size: int, number: int, side: int, device: torch.device) -> torch.Tensor:
    """A fixed matrix of +1 and -1 for one side of one layer, float32 [W, size]."""
    drawn = np.random.default_rng([SEED, number, side]).integers(0, 2, (width, size), dtype=np.int8)
    return torch.from_numpy(2 * drawn - 1).to(device, torch.float32)


def loss_gradient(head: nn.Module, hidden_PH: torch.Tensor, labels_P: torch.Tensor, weight_P: torch.Tensor) -> Any:
    """Logits of some positions, and the gradient at each of the weighted sum of their losses, [P, V] and [P, H]."""
    with torch.enable_grad():
        leaf_PH = hidden_PH.detach().requires_grad_()
        logits_PV = head(leaf_PH)
        losses_P = nn.functional.cross_entropy(logits_PV.float(), labels_P, reduction="none")
        (gradient_PH,) = torch.autograd.grad((losses_P * weight_P).sum(), leaf_PH)
    return logits_PV.detach(), gradient_PH
