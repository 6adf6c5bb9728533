"""The losses by chunks are those of the whole logits, and no tensor of the size of those is ever made."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from jobs.bench_trainer import MadeUpRows
from raycurate.training.collate import POSITIONS, TASK_IDS, Collator
from raycurate.training.head_losses import HeadLosses
from raycurate.training.network import add_lora, projector_paths
from raycurate.training.vitw import next_labels, token_losses
from tests.tiny_vlms import FAMILIES, make_model, make_processor


class Capped(hf.LlavaForConditionalGeneration):
    """A family that caps its logits after the head, as Gemma 2 does."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = 2.0 * torch.tanh(outputs.logits / 2.0)
        return outputs


class Headless(hf.LlavaForConditionalGeneration):
    """A family that makes its logits without calling the head."""

    def forward(self, *args, logits_to_keep=slice(None), **kwargs):
        hidden_BTH = self.model(*args, **kwargs)[0]
        logits = torch.nn.functional.linear(hidden_BTH[:, logits_to_keep], self.lm_head.weight)
        return LlavaCausalLMOutputWithPast(logits=logits)


def batch_of(family: str) -> dict[str, torch.Tensor]:
    """Six rows of the family's processor, one of them without labels."""
    processor = make_processor(family)
    rows = MadeUpRows(processor, 6, side=28, answer_words=3, seed=0)
    batch = Collator(processor, rows)(rows.rows)
    batch["labels"][2] = -100
    batch.pop(TASK_IDS)
    return batch


def losses_and_gradients(model, batch, head_losses=None):
    """The losses at the kept positions and the gradients of their weighted sum, whole or by `head_losses`."""
    inputs = dict(batch)
    labels_BT, positions_P = inputs.pop("labels"), inputs.pop(POSITIONS)
    if head_losses is None:
        losses_BP = token_losses(model(**inputs).logits[:, positions_P], next_labels(labels_BT, positions_P))
    else:
        losses_BP, _ = head_losses(model, inputs, labels_BT, positions_P)
    model.zero_grad()
    (losses_BP * torch.linspace(0.5, 2.0, losses_BP.numel()).view_as(losses_BP)).sum().backward()
    return losses_BP.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    """Losses and every gradient alike, to rounding."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    scale = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-6 * scale)


@pytest.mark.parametrize(("family", "keeps_positions"), [("llava", False), *((name, True) for name in FAMILIES)])
def test_chunks_give_the_losses_of_the_whole_logits(family, keeps_positions):
    """Losses and gradients of every weight, with chunks of nine tokens."""
    model, batch = make_model(family, make_processor(family)), batch_of(family)
    vocabulary = model.config.get_text_config().vocab_size
    by_chunks = HeadLosses(model, keeps_positions=keeps_positions, chunk_logits=9 * vocabulary)
    assert_same(losses_and_gradients(model, batch, by_chunks), losses_and_gradients(model, batch))


def test_chunks_under_lora_and_gradient_checkpointing():
    """A frozen head inside of peft's model, whose layers are made again in the backward pass."""
    network, batch = make_model("llava", make_processor("llava")), batch_of("llava")
    network.gradient_checkpointing_enable({"use_reentrant": False})
    network.enable_input_require_grads()
    model = add_lora(network, rank=2, alpha=4, dropout=0.0, saved_modules=projector_paths(network)).train()
    by_chunks = HeadLosses(network, keeps_positions=True, chunk_logits=1000)
    found = losses_and_gradients(model, batch, by_chunks)
    assert_same(found, losses_and_gradients(model, batch))
    assert not any("lm_head" in name for name in found[1])
    assert model.training


@pytest.mark.parametrize("kind", [Capped, Headless])
def test_a_model_that_changes_its_logits_gets_the_whole_loss(kind, caplog):
    """What comes after the head counts: such a model is found before the first loss."""
    model, batch = make_model("llava", make_processor("llava")), batch_of("llava")
    model.__class__ = kind
    with caplog.at_level(logging.WARNING, "raycurate"):
        by_chunks = HeadLosses(model, keeps_positions=True, chunk_logits=1000)
        found = losses_and_gradients(model, batch, by_chunks)
    assert_same(found, losses_and_gradients(model, batch))
    assert f"{kind.__name__} changes its logits" in caplog.text


def test_a_batch_without_labels_keeps_the_head_in_use():
    """Zero losses, and a gradient of zero for every weight that has one else."""
    model, batch = make_model("llava", make_processor("llava")), batch_of("llava")
    by_chunks = HeadLosses(model, keeps_positions=True, chunk_logits=1000)
    _, usual = losses_and_gradients(model, batch, by_chunks)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    batch[POSITIONS] = torch.zeros(1, dtype=torch.int64)
    losses_BP, gradients = losses_and_gradients(model, batch, by_chunks)
    assert not losses_BP.any()
    assert gradients.keys() == usual.keys()
    assert not any(gradient.any() for gradient in gradients.values())


class Largest(TorchDispatchMode):
    """The most elements of a tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_no_tensor_has_the_size_of_the_logits():
    """Forward and backward of a large vocabulary: nothing larger than the weights of the head and a chunk."""
    processor = make_processor("llava")
    config = make_model("llava", processor).config
    config.text_config.vocab_size = 20_000
    model, batch = hf.LlavaForConditionalGeneration(config), batch_of("llava")
    weights = model.lm_head.weight.numel()
    logits = batch["labels"].shape[0] * len(batch[POSITIONS]) * 20_000
    assert logits > 4 * weights
    with Largest() as whole:
        losses_and_gradients(model, batch)
    assert whole.elements >= logits
    by_chunks = HeadLosses(model, keeps_positions=True, chunk_logits=8 * 20_000)
    with Largest() as chunked:
        losses_and_gradients(model, batch, by_chunks)
    assert chunked.elements <= weights
