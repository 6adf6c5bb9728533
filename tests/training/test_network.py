"""Where LoRA goes."""

from __future__ import annotations

import torch
from torch import nn

from raycurate.training.network import add_lora, lora_targets
from tests.tiny_vlms import make_model, make_processor


class _Router(nn.Linear):
    """A linear layer with a forward of its own, as Llama 4 has one in each layer of experts."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        logits = super().forward(hidden)
        return logits.sigmoid(), logits


def test_lora_leaves_out_routers():
    """What returns more than a tensor cannot be replaced by a linear layer with an adapter."""
    processor = make_processor("llava")
    network = make_model("llava", processor)
    for layer in network.get_decoder().layers:
        layer.mlp.router = _Router(8, 2)
    targets = lora_targets(network)
    assert "router" not in targets
    assert "q_proj" in targets
    adapted = add_lora(network, rank=2, alpha=4, dropout=0.0, saved_modules=())
    assert not [name for name, _ in adapted.named_parameters() if "router" in name and "lora" in name]
