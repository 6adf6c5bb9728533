"""Relevancy of tokens: against a case by hand, a naive product of matrices, and finite differences of a real model."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from raycurate.encoding.token_batches import AnswerPreparer
from raycurate.features.patches import patch_map, tile_grid
from raycurate.features.relevancy import Rollout, layer_relevancy
from raycurate.features.relevancy_pass import MERGED, RelevancyPass
from raycurate.models.adapter import load_vlm
from raycurate.models.tiny.scenes import shapes_scene
from tests.features.conftest import make_image
from tests.tiny_vlms import FAMILIES, make_tiny_vlm


def test_two_layers_by_hand():
    """Three tokens, two heads: what is negative counts nothing, heads are averaged, the residual keeps what was there.

    E^1 = [[0,0,0],[.5,0,0],[.1,.2,0]], E^2 = [[0,0,0],[0,0,0],[.4,.3,0]]; e asks at the last token.
    e E^2 = [.4,.3,0]; e (1 + E^2) = [.4,.3,1]; e R = [.4,.3,1] + .4 [0,0,0] + .3 [.5,0,0] + [.1,.2,0] = [.65,.5,1].
    """
    first = torch.tensor([[[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.4, 0.4]], [[1, 0, 0], [0.5, 0.5, 0], [0.5, 0.25, 0.25]]])
    slope = torch.tensor([[[0, 0, 0], [2, -9, 0], [1, 1, -1]], [[0, 0, 0], [0, -9, 0], [-3, 0, -1]]], dtype=torch.float)
    second = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [0.8, 0.6, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    rollout = Rollout(torch.tensor([0.0, 0.0, 1.0]), frozenset({0, 1}))
    rollout.add(1, layer_relevancy(second, torch.ones_like(second)))
    rollout.add(0, layer_relevancy(first, slope))
    assert rollout.layers[1].tolist() == pytest.approx([0.4, 0.3, 0])
    assert rollout.layers[0].tolist() == pytest.approx([0.1, 0.2, 0])
    assert rollout.total_T.tolist() == pytest.approx([0.65, 0.5, 1])
    assert rollout.brought_T.tolist() == pytest.approx([0.65, 0.5, 0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))
def test_vectors_from_the_end_are_the_product_of_the_matrices(seed, layers, tokens, heads):
    """R = R + E R layer by layer from the first, in float64, then its rows where the answer is written."""
    rng = np.random.default_rng(seed)
    pairs = rng.normal(size=(layers, 2, heads, tokens, tokens))
    asking = rng.random(tokens) < 0.5
    asking[-1] = True
    whole = np.eye(tokens)
    for attention, gradient in pairs:
        whole = whole + np.maximum(attention * gradient, 0).mean(axis=0) @ whole
    rollout = Rollout(torch.from_numpy(asking / asking.sum()).float())
    for layer in reversed(range(layers)):
        rollout.add(layer, layer_relevancy(*(torch.from_numpy(each) for each in pairs[layer])))
    assert rollout.total_T.numpy() == pytest.approx(whole[asking].mean(axis=0), rel=1e-4, abs=1e-5)


def _batch(vlm, answer="it is red", picture=None, question="What colour?"):
    row = {"key": "k", "images": [picture or make_image(0, 40, 30)], "image_keys": ["0"]}
    row["messages"] = [{"role": "user", "text": f"<image>\n{question}"}, {"role": "assistant", "text": answer}]
    preparer = AnswerPreparer(vlm.processor, max_length=2048, token_budget=2048, max_rows=1)
    (batch,), rejects = preparer.prepare_answers([row])
    assert not rejects
    return batch


def _naive(vlm, batch):
    """Every layer's E from attention that transformers hands out and gradients by `autograd.grad`, in float64."""
    inputs = RelevancyPass(vlm, ())._inputs(batch)
    embedded = vlm.model.get_input_embeddings()
    handle = embedded.register_forward_hook(lambda _m, _i, out: out.requires_grad_())
    out = vlm.model(**inputs, output_attentions=True)
    handle.remove()
    at = [t - 1 for t in batch.text_mask_BT[0].nonzero()[:, 0].tolist()]
    score = sum(out.logits[0, t, batch.input_ids_BT[0, t + 1].item()] for t in at)
    gradients = torch.autograd.grad(score, out.attentions)
    return at, [
        (a[0].double() * g[0].double()).clamp(min=0).mean(dim=0).detach().numpy()
        for a, g in zip(out.attentions, gradients, strict=True)
    ]


@pytest.mark.parametrize("family", ["tiny", *FAMILIES])
def test_every_family_gives_what_transformers_own_attentions_give(family, tmp_path):
    """Layers alone and rolled out, from one pass with hooks; nothing flows from later tokens."""
    name = family if family == "tiny" else str(make_tiny_vlm(family, tmp_path))
    vlm = load_vlm(name, device="cpu", dtype="float32", attention="eager")
    batch = _batch(vlm)
    found = RelevancyPass(vlm, (1, 4)).look(batch)
    at, layers = _naive(vlm, batch)
    whole = np.eye(len(found.total_T))
    for each in layers:
        whole = whole + each @ whole
    assert sorted(found.layers) == [1, 4]
    for layer, own_T in found.layers.items():
        assert own_T == pytest.approx(layers[layer][at].mean(axis=0), rel=1e-3, abs=1e-9)
    assert found.total_T == pytest.approx(whole[at].mean(axis=0), rel=1e-3, abs=1e-9)
    assert (found.total_T[at[-1] + 1 :] == 0).all()
    assert 0 < found.probability < 1
    followed = family in ("tiny", "llava")
    assert (found.tower_V is not None, found.not_followed) == (followed, "" if followed else MERGED)


def test_the_tower_is_followed_as_transformers_own_weights_say():
    """From visual tokens down to patches, against `autograd.grad` of the whole model; the class token is left out."""
    vlm = load_vlm("tiny", device="cpu", dtype="float32", attention="eager")
    batch = _batch(vlm)
    found = RelevancyPass(vlm, ()).look(batch)
    heard: list[torch.Tensor] = []
    layers = vlm.model.model.vision_tower.encoder.layers
    handles = [each.self_attn.register_forward_hook(lambda _m, _i, out: heard.append(out[1])) for each in layers]
    inputs = RelevancyPass(vlm, ())._inputs(batch)
    inputs["pixel_values"] = inputs["pixel_values"].requires_grad_()
    logits = vlm.model(**inputs).logits[0]
    for handle in handles:
        handle.remove()
    at = [t - 1 for t in batch.text_mask_BT[0].nonzero()[:, 0].tolist()]
    gradients = torch.autograd.grad(sum(logits[t, batch.input_ids_BT[0, t + 1].item()] for t in at), heard)
    whole = np.eye(17)
    for weights, gradient in zip(heard, gradients, strict=True):
        whole = whole + (weights * gradient)[0].double().clamp(min=0).mean(dim=0).detach().numpy() @ whole
    start = found.total_T[(batch.input_ids_BT[0] == vlm.image_token_id).numpy()]
    assert found.tower_V == pytest.approx(start @ (whole - np.eye(17))[1:, 1:], rel=1e-3, abs=1e-9)


def _covered(vlm, batch):
    """By how much the answer's log-probability falls where a patch has the picture's median colour."""
    inputs = {name: each.repeat_interleave(17, 0) for name, each in RelevancyPass(vlm, ())._inputs(batch).items()}
    pixels = inputs["pixel_values"] = inputs["pixel_values"].clone()
    middle = pixels[0].flatten(1).median(dim=1).values[:, None, None]
    for patch in range(16):
        row, column = 16 * (patch // 4), 16 * (patch % 4)
        pixels[patch, :, row : row + 16, column : column + 16] = middle
    at = batch.text_mask_BT[0].nonzero()[:, 0]
    with torch.no_grad():
        log_BAV = torch.log_softmax(vlm.model(**inputs).logits[:, at - 1], dim=-1)
    score_B = log_BAV[:, torch.arange(len(at)), batch.input_ids_BT[0, at].long()].sum(dim=1)
    return (score_B[16] - score_B[:16]).numpy()


def test_what_counts_by_the_tower_counts_when_it_is_covered():
    """Rank correlation with how much covering a patch moves the answer, over scenes that the embedded model knows."""
    vlm = load_vlm("tiny", device="cpu", dtype="float32", attention="eager")
    looking, random_ = RelevancyPass(vlm, ()), random.Random(0)
    found = []
    for _ in range(24):
        scene = shapes_scene(random_, 1)
        batch = _batch(vlm, scene.things[0].color, scene.image, "name the color.")
        moved = np.abs(_covered(vlm, batch))
        found.append(spearmanr(looking.look(batch).tower_V, moved).statistic)
    assert np.mean(found) > 0.3


def test_maps_hold_every_token_where_it_lies():
    """A square, a merged grid, tiles with the whole image behind them; sums stay; other layouts have no map."""
    assert patch_map(np.arange(6.0), (30, 20), grid=(4, 6)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert patch_map(np.arange(4.0), (9, 9)).tolist() == [[0, 1], [2, 3]]
    tiles = patch_map(np.arange(12.0), (20, 10), tiles=3)
    assert tiles.shape == (2, 4)
    assert tiles.sum() == np.arange(12).sum()
    assert (tiles - np.array([[0, 1, 4, 5], [2, 3, 6, 7]])).tolist() == [[4, 4, 4.5, 4.5], [5, 5, 5.5, 5.5]]
    assert patch_map(np.arange(7.0), (9, 9)) is None
    assert patch_map(np.arange(6.0), (9, 9), grid=(5, 5)) is None
    assert (tile_grid(6, (30, 20)), tile_grid(6, (20, 30)), tile_grid(7, (1, 1))) == ((2, 3), (3, 2), (1, 7))
