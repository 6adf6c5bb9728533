"""Pooling arithmetic against a float64 definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.features.pooling import pool_tokens, unit_rows
from tests.features.conftest import naive_row


def run(activations_MBTH: np.ndarray, masks_B2T: np.ndarray, variant: str = "attn"):
    """Pool every layer and build rows."""
    masks = torch.from_numpy(masks_B2T)
    means = torch.stack([pool_tokens(torch.from_numpy(a), masks) for a in activations_MBTH], dim=1)
    features, reasons = unit_rows(means, masks.sum(dim=2), variant)
    return features.numpy(), reasons


@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 4),
    rows=st.integers(1, 5),
    tokens=st.integers(2, 12),
    width=st.integers(2, 9),
)
def test_equals_the_definition(seed, layers, rows, tokens, width):
    """Rows equal the float64 definition to float16 precision, whatever the masks are."""
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=(layers, rows, tokens, width)).astype(np.float32) * 3
    kind = rng.integers(0, 3, size=(rows, tokens))
    masks = np.stack([kind == 0, kind == 1], axis=1)
    features, reasons = run(activations, masks)
    for b in range(rows):
        if not masks[b, 1].any():
            assert reasons[b] == "no_text_tokens"
            assert (features[b] == 0).all()
            continue
        expected = naive_row([a[b].astype(np.float64) for a in activations], masks[b, 0], masks[b, 1])
        assert reasons[b] is None
        assert np.abs(features[b] - expected).max() < 1e-3
        assert np.linalg.norm(features[b].astype(np.float64)) == pytest.approx(1.0, abs=1e-3)


def test_padding_may_hold_anything():
    """NaN and infinity outside the masks do not reach the row."""
    activations = np.ones((1, 1, 4, 3), dtype=np.float32)
    masks = np.array([[[True, False, False, False], [False, True, False, False]]])
    clean, _ = run(activations, masks)
    activations[0, 0, 2] = np.nan
    activations[0, 0, 3] = np.inf
    dirty, reasons = run(activations, masks)
    assert reasons == [None]
    assert np.array_equal(clean, dirty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("variant", ["attn", "boolean"])
def test_non_finite_activation_fails_its_row_only(bad, variant):
    """An infinity is not hidden by tanh or by the sign, and does not touch the neighbour."""
    activations = np.random.default_rng(0).normal(size=(2, 2, 4, 3)).astype(np.float32)
    activations[1, 0, 1, 2] = bad
    masks = np.array([[[True, False, False, False], [False, True, True, False]]] * 2)
    features, reasons = run(activations, masks, variant)
    assert reasons == ["non_finite_activation", None]
    assert (features[0] == 0).all()
    assert np.isfinite(features[1]).all()


def test_zero_block_fails():
    """A block without direction cannot be a unit vector."""
    activations = np.ones((2, 1, 2, 3), dtype=np.float32)
    activations[1, 0, 0] = 0.0
    masks = np.array([[[True, False], [False, True]]])
    features, reasons = run(activations, masks)
    assert reasons == ["zero_norm_activation"]
    assert (features == 0).all()


def test_image_without_text_fails():
    """A row whose text mask is empty has no feature."""
    activations = np.ones((1, 1, 2, 3), dtype=np.float32)
    _, reasons = run(activations, np.array([[[True, True], [False, False]]]))
    assert reasons == ["no_text_tokens"]


def test_text_only_row_meets_others_in_the_text_half():
    """The inner product of a text-only row with itself is 1, and only text halves count against an image row."""
    activations = np.random.default_rng(1).normal(size=(3, 2, 3, 8)).astype(np.float32)
    activations[:, 1] = activations[:, 0]
    masks = np.array([[[True, False, False], [False, True, True]], [[False] * 3, [False, True, True]]])
    features, _ = run(activations, masks)
    rows = features.astype(np.float64)
    assert rows[1] @ rows[1] == pytest.approx(1.0, abs=1e-3)
    # Same text: M blocks of 1/sqrt(2M) * 1/sqrt(M) each.
    assert rows[0] @ rows[1] == pytest.approx(1 / math.sqrt(2), abs=1e-3)


def test_pooling_of_half_precision_sums_in_float32():
    """The mean of many bfloat16 values is not rounded on the way."""
    activations = torch.full((1, 4000, 2), 1.0, dtype=torch.bfloat16)
    activations[:, :, 1] = 1.0 / 3.0
    masks = torch.ones(1, 2, 4000, dtype=torch.bool)
    means = pool_tokens(activations, masks)
    assert means.dtype == torch.float32
    assert means[0, 0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert means[0, 0, 1].item() == pytest.approx(activations[0, 0, 1].float().item(), rel=1e-5)
