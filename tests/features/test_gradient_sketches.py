"""Sketches and norms of batched rows against `autograd.grad` of each row alone, with the weights' whole gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from raycurate.errors import UserError
from raycurate.features.first_layer import EARLY
from raycurate.features.gradient_sketches import GradientSketcher
from raycurate.features.token_scores import EMBEDDED, GRADIENT_NORM, GRADIENT_SKETCH, TokenScorer
from raycurate.models.adapter import VLM, load_vlm
from tests.features.conftest import make_image, make_sample
from tests.features.test_token_scores import plain_inputs, score_all

WIDTH = 8


def whole_gradients(vlm: VLM, sample: dict[str, Any], weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradient of transformers' own loss of one row, with respect to each weight."""
    for weight in weights:
        weight.requires_grad_(True)
    inputs, _ = plain_inputs(vlm, sample)
    made = torch.autograd.grad(vlm.model(**inputs).loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    return [gradient.double() for gradient in made]


def check(vlm: VLM, samples: list[dict[str, Any]], layers: Any, **settings: Any) -> None:
    """Norms within 1e-4; a unit sketch is that of the gradient, but for a half's rounding."""
    sketcher = GradientSketcher(vlm, layers=layers, width=WIDTH)
    found = score_all(TokenScorer(vlm, losses=False, embeddings=(), gradients=sketcher), samples, **settings)
    weights = [linear.weight for linear in sketcher.linears]
    for sample in samples:
        gradients = whole_gradients(vlm, sample, weights)
        norm = sum(float((gradient**2).sum()) for gradient in gradients) ** 0.5
        assert found[sample["key"]][GRADIENT_NORM] == pytest.approx(norm, rel=1e-4)
        pairs = zip(sketcher.projections, gradients, strict=True)
        sketch = sum(left.double() @ gradient @ right.double().T for (left, right), gradient in pairs).flatten()
        unit = (sketch / sketch.norm()).numpy()
        assert np.abs(found[sample["key"]][GRADIENT_SKETCH].astype(np.float64) - unit).max() < 6e-4
        assert np.abs(np.linalg.norm(found[sample["key"]][GRADIENT_SKETCH].astype(np.float64)) - 1) < 1e-3


@pytest.mark.parametrize("layers", ["last", "all"])
def test_the_embedded_model_row_by_row(layers: str) -> None:
    """Several turns, shared images and none, in batches of rows of other lengths."""
    image = make_image(0, 40, 40)
    rows = [
        make_sample("a", [image], "<image>\nWhat shape is shown?", "circle"),
        make_sample("b", [], "Is it so?", "yes", "Sure?", "no, not at all"),
        make_sample("c", [image], "<image>\nWhat colour?", "it is a long and rather blue thing"),
        make_sample("d", [make_image(1, 30, 60)], "Is there a square in <image>?", "no"),
    ]
    check(load_vlm("tiny", device="cpu", dtype="float32"), rows, layers)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("family", ["llava", "smolvlm", "qwen3_vl"])
def test_every_kind_of_decoder(family, layers, side, tiny_vlm, samples):
    """Padding on either side, grouped heads, features that enter at several layers."""
    check(tiny_vlm(family), samples, layers, padding_side=side)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_the_pass_is_shared_and_changes_nothing_else(tiny_vlm, samples, layers):
    """Losses and embeddings, those of the first layer too, are beside gradients what they are without."""
    vlm = tiny_vlm("llava")
    alone = score_all(TokenScorer(vlm, embeddings=(*EMBEDDED, *EARLY)), samples)
    sketcher = GradientSketcher(vlm, layers=layers, width=WIDTH)
    beside = score_all(TokenScorer(vlm, embeddings=(*EMBEDDED, *EARLY), gradients=sketcher), samples)
    for key, row in alone.items():
        for name, values in row.items():
            assert np.array_equal(beside[key][name], values), name


def test_chunks_and_blocks_change_nothing(tiny_vlm, samples, monkeypatch):
    """One answer token and one row at a time."""
    vlm = tiny_vlm("qwen3_vl")
    scorer = TokenScorer(vlm, losses=False, embeddings=(), gradients=GradientSketcher(vlm, layers="all", width=WIDTH))
    whole = score_all(scorer, samples)
    monkeypatch.setattr("raycurate.features.token_scores.CHUNK_BYTES", 1)
    monkeypatch.setattr("raycurate.features.gradient_sketches.BLOCK_BYTES", 1)
    for key, row in score_all(scorer, samples).items():
        assert row[GRADIENT_NORM] == pytest.approx(whole[key][GRADIENT_NORM], rel=1e-5)
        assert np.abs(row[GRADIENT_SKETCH] - whole[key][GRADIENT_SKETCH]).max() < 1e-3


def test_sketches_keep_inner_products_on_average(tiny_vlm, samples):
    """Over many seeds of the projections the mean product of two sketches is that of the gradients."""
    from raycurate.features.gradient_sketches import _signs

    vlm = tiny_vlm("llava")
    (linear,) = GradientSketcher(vlm, width=WIDTH).linears
    one, other = (whole_gradients(vlm, samples[i], [linear.weight])[0] for i in (0, 1))
    products = []
    for number in range(400):
        left, right = (_signs(WIDTH, size, number, side, vlm.device).double() for side, size in enumerate(one.shape))
        products.append(float(((left @ one @ right.T) * (left @ other @ right.T)).sum()) / WIDTH**2)
    error = np.std(products) / len(products) ** 0.5
    assert abs(np.mean(products) - float((one * other).sum())) < 4 * error


def test_a_layer_that_is_not_linear_is_refused(tiny_vlm):
    """A quantised projection has no weight to take a gradient of."""
    vlm = tiny_vlm("llava")
    attention = vlm.layers[-1].self_attn
    linear = attention.o_proj
    attention.o_proj = torch.nn.Identity()
    try:
        with pytest.raises(UserError, match="its attention output is a Identity, not a linear layer"):
            GradientSketcher(vlm)
    finally:
        attention.o_proj = linear
