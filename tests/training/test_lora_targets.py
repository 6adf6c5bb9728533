"""LoRA goes on the plain linear layers of the decoder, and on no router."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from raycurate.training.network import lora_targets


class _TupleLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return super().forward(x), x


class _Layer(nn.Module):
    def __init__(self, router: str, kind: type[nn.Linear]) -> None:
        super().__init__()
        self.q_proj, self.gate_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.add_module(router, kind(8, 4))


class _Decoder(nn.Module):
    def __init__(self, router: str, kind: type[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(router, kind) for _ in range(2))


class _Network(nn.Module):
    def __init__(self, router: str, kind: type[nn.Linear]) -> None:
        super().__init__()
        self.text = _Decoder(router, kind)

    def get_decoder(self) -> nn.Module:
        return self.text


def targets(network: nn.Module) -> list[str]:
    return [path for path, _ in network.named_modules() if re.fullmatch(lora_targets(network), path)]


@pytest.mark.parametrize("router", ["router", "gate", "shared_expert_gate", "mixer"])
def test_routers_are_left_out(router):
    """By their names where they are plain linear layers; by their forward pass whatever their name is."""
    kind = _TupleLinear if router == "mixer" else nn.Linear
    wanted = [f"text.layers.{layer}.{name}" for layer in (0, 1) for name in ("q_proj", "gate_proj")]
    assert targets(_Network(router, kind)) == wanted


def test_what_picks_the_tokens_to_attend_to_is_left_out():
    """A choice has no gradient, and ranks that train together must use every parameter."""
    network = _Network("router", nn.Linear)
    for layer in network.text.layers:
        layer.indexer = nn.ModuleDict({"wq": nn.Linear(8, 8)})
    assert not [path for path in targets(network) if "indexer" in path]


def test_lora_trains_a_llama_4():
    """Its router is a linear layer that returns two tensors: peft cannot wrap it, and it stays as it is."""
    transformers = pytest.importorskip("transformers")
    from peft import LoraConfig, get_peft_model

    config = transformers.Llama4TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        intermediate_size_mlp=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        interleave_moe_layer_step=1,
        pad_token_id=0,
    )
    network = transformers.Llama4ForCausalLM(config)
    found = targets(network)
    assert found
    assert not any("router" in path for path in found)
    ids_BT = torch.arange(1, 9)[None]
    trained = get_peft_model(network, LoraConfig(r=2, target_modules=lora_targets(network)))
    trained(input_ids=ids_BT, labels=ids_BT).loss.backward()
    assert any(p.grad is not None and "lora_B" in name for name, p in trained.named_parameters())
