"""Geometry against what transformers' own networks have and what a profiler counts in their forward passes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from raycurate.encoding.inputs import image_tensors
from raycurate.encoding.prepare import Preparer
from raycurate.errors import UserError
from raycurate.estimate.geometry import geometry_of, read_geometry
from raycurate.estimate.published import PUBLISHED
from raycurate.estimate.tokens import _patches, image_tokens
from tests.estimate.facts import MODEL
from tests.tiny_vlms import FAMILIES, make_model, make_processor


class _Stop(Exception):
    """Ends a forward pass."""


@pytest.fixture(scope="module", params=FAMILIES)
def built(request):
    processor = make_processor(request.param)
    model = make_model(request.param, processor)
    model.set_attn_implementation("eager")  # a profiler sees its products
    pixels = np.random.default_rng(0).integers(0, 256, (56, 42, 3), dtype=np.uint8)
    turns = [{"role": "user", "text": "<image>\nWhat?"}, {"role": "assistant", "text": "A cat on a mat."}]
    row = {"key": "a", "messages": turns, "images": [Image.fromarray(pixels)]}
    return model, Preparer(processor).prepare([row]).batches[0]


def inputs_of(batch):
    values = image_tensors(batch, batch.image_index_S.tolist())
    if batch.mm_token_type_ids_BT is not None:
        values["mm_token_type_ids"] = batch.mm_token_type_ids_BT
    return {"input_ids": batch.input_ids_BT.long(), "use_cache": False, **values}


def counted(model, batch, stop=None):
    """FLOP of a forward pass, to the end or to the output projection of a layer's attention."""

    def end(*_):
        raise _Stop

    hook = None if stop is None else model.get_decoder().layers[stop].self_attn.o_proj.register_forward_hook(end)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), contextlib.suppress(_Stop):
        model(**inputs_of(batch))
    if hook is not None:
        hook.remove()
    return counter.get_total_flops()


def foreseen(model, batch, **passed):
    geometry = geometry_of(model, "built")
    patch = image_tokens(model.config, 0.0)[3]
    patches, tiles = _patches(batch.image_inputs["pixel_values"], patch)
    tower = geometry.vision_flop(patches, float(batch.image_tokens_U.sum()), tiles)
    return tower + geometry.decoder_flop(batch.input_ids_BT.shape[1], **passed)


def test_all_parameters_are_counted(built):
    model, _ = built
    assert geometry_of(model, "built").parameters == sum(p.numel() for p in model.parameters())


def test_a_whole_pass_has_the_flop_that_a_profiler_counts(built):
    model, batch = built
    head = geometry_of(model, "built").head_flop(batch.input_ids_BT.shape[1])
    assert foreseen(model, batch) + head == pytest.approx(counted(model, batch), rel=0.005)


def test_a_truncated_pass_has_the_flop_that_a_profiler_counts(built):
    model, batch = built
    assert foreseen(model, batch, stop=3, mlp_of_last=False) == pytest.approx(counted(model, batch, 3), rel=0.005)


def test_experts_count_as_far_as_a_token_goes_to_them():
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from raycurate.estimate.geometry import meta_network
    from tests.family_networks import TEXT, VISION

    text = {**TEXT, "vocab_size": 300, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    vision = {**VISION, "patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    config = CONFIG_MAPPING["qwen3_vl_moe"](text_config=text, vision_config=vision)
    assert isinstance(config, type(AutoConfig.for_model("qwen3_vl_moe")))
    network = meta_network(config)
    layer = network.get_decoder().layers[0]
    experts = sum(p.numel() for name, p in layer.named_parameters() if "experts" in name)
    others = sum(p.numel() for name, p in layer.named_parameters() if "experts" not in name and p.ndim == 2)
    assert geometry_of(network, "made").layer_weights == others + experts * 2 / 4


def test_a_truncated_pass_is_worked_out_by_hand():
    # 3 layers passed, the last without its MLP: 2 * 30 * (3 * 1000 - 600) + 4 * 900 * 10 * 3
    assert MODEL.decoder_flop(30, stop=2, mlp_of_last=False) == 144_000 + 108_000


def test_training_is_worked_out_by_hand():
    forward = 2 * 30 * 4000 + 4 * 900 * 10 * 4
    assert MODEL.training_flop(30, 900, 5, method="lora", recomputed=False) == 2 * forward + 2 * 2 * 5 * 5000
    assert MODEL.training_flop(30, 900, 5, method="full", recomputed=True) == 4 * forward + 3 * 2 * 5 * 5000


def test_published_sizes_give_the_published_numbers_of_parameters():
    geometry, _, note = read_geometry("llava-hf/llava-1.5-7b-hf")
    assert geometry.parameters == pytest.approx(7.06e9, rel=0.005)
    assert "not here" in note
    assert geometry.layers in {each["text_config"]["num_hidden_layers"] for each in PUBLISHED.values()}


def test_a_model_that_is_not_here_is_told_with_what_can_be_given():
    with pytest.raises(UserError, match=r"configuration of 'nobody/nothing' cannot be read.*known by name: bczhou"):
        read_geometry("nobody/nothing")
