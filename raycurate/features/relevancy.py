"""Which tokens an answer was made of, from attention and its gradients: COINCIDE's Eq. 8, alone and over all layers.

    E^l = mean_h (dy/dA^l * A^l)^+            what query t of layer l takes from token s that helps y   (Eq. 8)
    m^l = e E^l                               e: mean over the positions in front of the answer's tokens
    R   = R + E^l R, l = 1 .. L, R = 1        rolled out over the layers (arXiv 2103.15679, Eq. 5 and 6)

with y the sum of the logits of the tokens of the answer, A^l the attention [H, T, T] of layer l. Wanted is e R, and

    e R = e (1 + E^L) ... (1 + E^1):          r = r + r E^l from the last layer to the first

so that no product of matrices is made, and gradients are used in the order in which a backward pass gives them.

A visual token need not stand for its own patch: the vision tower mixes patches before the decoder sees them. So e R on
the visual tokens is passed on through the tower's layers alike, and what its attention brings from other patches is

    t = v (1 + F^M) ... (1 + F^1) - v,                v: e R of the visual tokens, F: as E, of the tower's layers

Cost: 2 H T^2 and 2 T^2 FLOP a layer. Memory: one E. Limits: what flows beside the attention (residuals aside) is not
followed, nor is what a position had mixed in before the layer that a single m^l is of; layers without attention (those
of hybrid decoders) pass on what they get.

Shapes: H heads, T tokens.
"""

from __future__ import annotations

import torch


def layer_relevancy(attention_HTT: torch.Tensor, gradient_HTT: torch.Tensor) -> torch.Tensor:
    """E of one layer, float32 [T, T]."""
    return (attention_HTT.float() * gradient_HTT.float()).clamp_min_(0).mean(dim=0)


class Rollout:
    """Takes in layers from the last to the first; holds `m` of the wanted ones and `e R` of those so far."""

    def __init__(self, start_T: torch.Tensor, wanted: frozenset[int] = frozenset()) -> None:
        """Begin behind the last layer.

        Args:
            start_T: `e`, or what comes out of further layers.
            wanted: layers whose `m` is kept.
        """
        self._start_T, self._wanted = start_T, wanted
        self.total_T = start_T
        self.layers: dict[int, torch.Tensor] = {}

    @property
    def brought_T(self) -> torch.Tensor:
        """What the layers added to what they began with."""
        return self.total_T - self._start_T

    def add(self, layer: int, relevancy_TT: torch.Tensor) -> None:
        """Take in E of the next layer down."""
        if layer in self._wanted:
            self.layers[layer] = self._start_T @ relevancy_TT
        self.total_T = self.total_T + self.total_T @ relevancy_TT
