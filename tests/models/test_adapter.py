"""Loading, finding the decoder, and refusing models that cannot be hooked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from torch import nn

from raycurate.errors import UserError
from raycurate.features.extractor import ActivationExtractor
from raycurate.models.adapter import (
    auto_layers,
    check_supported,
    load_processor,
    load_vlm,
    load_weights,
    resolve_dtype,
    wrap_vlm,
)
from tests.tiny_vlms import FAMILIES, NUM_LAYERS, WIDTH, make_tiny_vlm


def test_auto_layers_of_the_paper():
    """24 layers give the published 3, 7, 11, 15, 19."""
    assert auto_layers(24) == (3, 7, 11, 15, 19)


@pytest.mark.parametrize("num_layers", range(1, 100))
def test_auto_layers_are_valid(num_layers):
    """Layers are distinct, ascending, inside the model, and five where the model is deep enough."""
    layers = auto_layers(num_layers)
    assert list(layers) == sorted(set(layers))
    assert layers[0] >= 0
    assert layers[-1] < num_layers
    assert len(layers) == 5 or num_layers < 6


def test_auto_layers_refuses_no_layers():
    """A decoder without layers is an error."""
    with pytest.raises(UserError, match="at least 1"):
        auto_layers(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_every_family(family, tmp_path):
    """A saved model loads, and the hook points are the decoder's, not the vision tower's."""
    vlm = load_vlm(str(make_tiny_vlm(family, tmp_path)), device="cpu", dtype="float32")
    assert (vlm.num_layers, vlm.hidden_size, vlm.dtype) == (NUM_LAYERS, WIDTH, torch.float32)
    assert vlm.image_token_id == vlm.processor.image_token_id
    names = {id(module): name for name, module in vlm.model.named_modules()}
    name = names[id(vlm.attention_output(2))]
    assert name.endswith("layers.2.self_attn.o_proj")
    assert "vision" not in name
    assert "visual" not in name
    assert names[id(vlm.feed_forward(2))].endswith("layers.2.mlp")


def test_dtype_names():
    """Names map to dtypes; auto on a CPU without bf16 units is float32; others are refused."""
    assert resolve_dtype("bf16", "cpu") is torch.bfloat16
    assert resolve_dtype("auto", "cuda:0") is torch.bfloat16
    with pytest.raises(UserError, match="unknown dtype 'int3'"):
        resolve_dtype("int3", "cpu")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_dtype_follows_the_cpu(has_bf16, monkeypatch):
    """The CPU's units decide the dtype."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": has_bf16})
    assert resolve_dtype("auto", "cpu") is (torch.bfloat16 if has_bf16 else torch.float32)


@pytest.mark.parametrize("config", [hf.MllamaConfig, hf.Blip2Config, hf.Florence2Config])
def test_cross_attention_models_are_refused(config):
    """Models without visual tokens in the decoder are refused with the reason."""
    with pytest.raises(UserError, match="no visual tokens"):
        check_supported("some/model", config())


def test_model_without_image_token_is_refused():
    """A config without an image token id is refused."""
    with pytest.raises(UserError, match="no image_token_id"):
        check_supported("some/model", hf.LlamaConfig())


class FakeLayer(nn.Module):
    """A decoder layer with or without self-attention."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        if attention:
            self.self_attn = nn.Module()
            self.self_attn.out_proj = nn.Linear(4, 4)
        else:
            self.linear_attn = nn.Linear(4, 4)


class FakeModel(nn.Module):
    """A model whose get_decoder gives the causal LM around the decoder, as Llama 4 does."""

    def __init__(self, layers: list[nn.Module], *, hop: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="fake", image_token_id=7)
        decoder = nn.Module()
        decoder.layers = nn.ModuleList(layers)
        decoder.config = SimpleNamespace(hidden_size=4)
        self.language_model = decoder
        if hop:
            self.language_model = nn.Module()
            self.language_model.model = decoder

    def get_decoder(self) -> nn.Module:
        return self.language_model


@pytest.mark.parametrize("hop", [False, True])
def test_hybrid_decoder_names_usable_layers(hop):
    """A wanted layer without self-attention is refused, naming those that have it; out_proj is found."""
    vlm = wrap_vlm(FakeModel([FakeLayer(False), FakeLayer(True)], hop=hop), None, name="fake")
    assert vlm.attention_output(1).out_features == 4
    with pytest.raises(UserError, match=r"hybrid.*self-attention: \[1\]"):
        vlm.attention_output(0)


def test_decoder_with_cross_attention_layers_is_refused():
    """A cross-attention layer anywhere in the decoder is refused."""
    layer = FakeLayer(True)
    layer.cross_attn = nn.Linear(4, 4)
    with pytest.raises(UserError, match="cross-attention"):
        wrap_vlm(FakeModel([layer], hop=False), None, name="fake")


def test_missing_model_says_what_to_give(tmp_path):
    """A path that holds nothing ends with one readable message."""
    with pytest.raises(UserError, match="Hugging Face model id"):
        load_vlm(str(tmp_path / "nothing"), device="cpu")
    with pytest.raises(UserError, match="there is no model folder .*nothing"):
        load_processor(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="processor"):
        load_processor(str(tmp_path / "empty"))


def test_text_model_has_no_processor(tmp_path):
    """A tokenizer alone is not a processor for images."""
    folder = make_tiny_vlm("llava", tmp_path)
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(UserError):
        load_processor(str(folder))


def test_auto_takes_the_layers_that_have_attention(tmp_path):
    """Of a hybrid decoder; the ffn variant may take any."""
    vlm = load_vlm(str(make_tiny_vlm("llava", tmp_path / "m")), device="cpu", dtype="float32")
    for layer in (0, 2, 3):
        del vlm.layers[layer].self_attn
    assert vlm.attention_layers == [1, 4, 5]
    assert ActivationExtractor(vlm).layers == (1, 4, 5)
    assert ActivationExtractor(vlm, variant="ffn").layers == auto_layers(6)


def test_a_decoder_without_fused_attention_is_loaded_with_the_plain_one(tmp_path):
    """Gemma 2's, which PaliGemma 2 has."""
    text = hf.Gemma2Config(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    vision = hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = hf.PaliGemmaConfig(text_config=text, vision_config=vision, projection_dim=16, image_token_index=299)
    hf.PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path / "m")
    network = load_weights(str(tmp_path / "m"), dtype=torch.float32, trust_remote_code=False)
    assert network.config.text_config._attn_implementation == "eager"


def test_weights_that_go_to_a_device_at_once_are_the_same(tmp_path):
    """As those that are moved there: every weight and buffer, no hook on any module."""
    folder = str(make_tiny_vlm("llava", tmp_path))
    moved, placed = (
        load_weights(folder, dtype=torch.bfloat16, trust_remote_code=False, device=device) for device in (None, "cpu")
    )
    for name, value in moved.state_dict().items():
        assert torch.equal(placed.state_dict()[name], value), name
    for name, value in moved.named_buffers():
        assert torch.equal(dict(placed.named_buffers())[name], value), name
    assert not any(hasattr(module, "_hf_hook") for module in placed.modules())
