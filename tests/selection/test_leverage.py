from __future__ import annotations

import numpy as np
import pytest

from raycurate.errors import UserError
from raycurate.selection.leverage import leverage_basis, moments_of


def _rows(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(80, 12)) @ np.diag(np.linspace(3, 0.2, 12)) + random.normal(size=12)


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_gram_form_equals_the_svd(rank: int) -> None:
    """Scores are ||U_k[i]||^2 and sum to k (oracle 7)."""
    rows = _rows()
    basis = leverage_basis(moments_of(rows), rank=rank)
    left = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[0][:, :rank]
    assert basis.scores(rows) == pytest.approx((left**2).sum(axis=1), abs=1e-12)
    assert basis.scores(rows).sum() == pytest.approx(rank)


def test_blocks_merge() -> None:
    """Moments of blocks add up to those of all rows."""
    rows = _rows()
    merged = moments_of(rows[:30]).merge(moments_of(rows[30:]))
    assert leverage_basis(merged, rank=5).scores(rows) == pytest.approx(
        leverage_basis(moments_of(rows), rank=5).scores(rows), abs=1e-12
    )


@pytest.mark.parametrize("energy", [0.5, 0.9, 1.0])
def test_rank_follows_the_energy(energy: float) -> None:
    """The fewest directions that hold the energy."""
    rows = _rows()
    variance = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    share = np.cumsum(variance) / variance.sum()
    assert leverage_basis(moments_of(rows), energy=energy).rank == int((share < energy - 1e-12).sum()) + 1


def test_identical_rows_have_no_direction() -> None:
    """Nothing to divide by: rank 0 and score 0."""
    rows = np.ones((5, 3))
    basis = leverage_basis(moments_of(rows))
    assert basis.rank == 0
    assert basis.scores(rows).tolist() == [0.0] * 5


def test_bad_input_is_a_user_error() -> None:
    """No rows, no rank."""
    with pytest.raises(UserError, match="got 0 rows"):
        leverage_basis(moments_of(np.zeros((0, 3))))
    with pytest.raises(UserError, match="rank 0"):
        leverage_basis(moments_of(np.ones((2, 3))), rank=0)
