from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection.methods.el2n import el2n_from_moments, el2n_from_probs


@given(tokens=st.integers(1, 12), vocabulary=st.integers(2, 50), seed=st.integers(0, 1000))
def test_closed_form_equals_the_norm(tokens: int, vocabulary: int, seed: int) -> None:
    """sqrt(sum p^2 - 2 p_y + 1) is ||p - onehot(y)|| (oracle 6)."""
    random = np.random.default_rng(seed)
    probs = random.dirichlet(np.full(vocabulary, 0.3), tokens)
    labels = random.integers(0, vocabulary, tokens)
    expected = np.linalg.norm(probs - np.eye(vocabulary)[labels], axis=1).mean()
    assert el2n_from_probs(probs, labels) == pytest.approx(expected, abs=1e-14)
    label = probs[np.arange(tokens), labels]
    published = np.sqrt(np.maximum((probs**2).sum(axis=1) - 2 * label + 1, 0)).mean()
    assert el2n_from_probs(probs, labels) == pytest.approx(published, abs=1e-7)


def test_certain_answers_and_no_answer() -> None:
    """Right for certain is 0, wrong for certain is sqrt 2, and nothing to score is NaN."""
    assert el2n_from_probs(np.array([[1.0, 0.0]]), np.array([0])) == 0
    assert el2n_from_probs(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(math.sqrt(2))
    assert math.isnan(el2n_from_moments(np.zeros(0), np.zeros(0)))
