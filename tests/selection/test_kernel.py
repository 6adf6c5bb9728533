from __future__ import annotations

import naive_coincide
import numpy as np
import pytest
from selection_cases import full_kernel, unit_features

from raycurate.errors import UserError
from raycurate.selection import kernel as kernel_module
from raycurate.selection.exact import squared_norms
from raycurate.selection.kernel import MAX_ROWS, ONE, RowCache, gaussian_kernel
from raycurate.selection.mmd import greedy_order


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_kernel_matches_the_formula(sigma: float) -> None:
    """Fixed-point entries are within half a unit of the float64 formula."""
    features = unit_features(30, 32, 5)
    full = full_kernel(features, sigma)
    entries = np.stack([full.row(row, full.sums_N) for row in range(30)]) / ONE
    assert np.abs(entries - naive_coincide.kernel(features, sigma)).max() < 1e-9
    assert (full.sums_N == np.rint(entries * ONE).sum(axis=1)).all()


def test_unit_rows_have_the_kernel_exp_of_cosine_minus_one() -> None:
    """K(x, y) = exp(cos - 1) for unit rows and sigma = 1 (oracle 2)."""
    rows = unit_features(25, 64, 8).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    full = full_kernel(rows, 1.0)
    entries = np.stack([full.row(row, full.sums_N) for row in range(25)]) / ONE
    assert np.abs(entries - np.exp(rows @ rows.T - 1)).max() < 2e-8


def test_tiles_do_not_change_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrored tiles of any height give the same sums and rows."""
    features = unit_features(50, 24, 2)
    whole = full_kernel(features, 1.0)
    monkeypatch.setattr(kernel_module, "TILE_ROWS", 7)
    tiled = full_kernel(features, 1.0)
    assert (whole.sums_N == tiled.sums_N).all()
    assert all((whole.row(row, whole.sums_N) == tiled.row(row, whole.sums_N)).all() for row in range(50))


@pytest.mark.parametrize("kept_rows", [1, 3, 20, 200])
def test_row_cache_gives_the_picks_of_the_full_kernel(kept_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not fit in memory ranks exactly as one that does."""
    monkeypatch.setattr(kernel_module, "PREFETCH_ROWS", 5)
    features = unit_features(70, 16, 4)
    features[10:20] = features[0]
    cache = RowCache(features, squared_norms(features), 1.0, kernel_bytes=4 * 70 * kept_rows)
    assert (greedy_order(cache) == greedy_order(full_kernel(features, 1.0))).all()


def test_exact_duplicates_have_similarity_one() -> None:
    """Copies of a row have kernel exactly 1 with it, in tiles apart too."""
    features = np.repeat(unit_features(1, 40, 1), 2100, axis=0)
    assert (full_kernel(features, 1.0).sums_N == 2100 * ONE).all()


def test_zero_rows_are_ordinary_points() -> None:
    """A row of length zero has a finite kernel."""
    features = np.zeros((3, 8), dtype=np.float16)
    features[0] = unit_features(1, 8, 0)
    full = full_kernel(features, 1.0)
    assert full.row(1, full.sums_N)[2] == ONE
    assert abs(full.row(0, full.sums_N)[1] / ONE - np.exp(-0.5)) < 1e-3


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_width_is_a_user_error(sigma: float) -> None:
    """A kernel width that is not positive is refused with its value."""
    with pytest.raises(UserError, match="sigma is"):
        gaussian_kernel(unit_features(3, 8, 0), np.ones(3), sigma, 2**20)


def test_too_many_rows_are_a_user_error() -> None:
    """A cluster beyond the integer range is refused before any work."""
    with pytest.raises(UserError, match="max_cluster_rows"):
        gaussian_kernel(np.zeros((MAX_ROWS + 1, 1), dtype=np.float16), np.zeros(MAX_ROWS + 1), 1.0, 2**20)
