from __future__ import annotations

import numpy as np
import pytest

from raycurate.errors import UserError
from raycurate.selection import kernel as kernel_module
from raycurate.selection.exact import squared_norms
from raycurate.selection.kernel import MAX_ROWS, ONE, gaussian_kernel
from tests.selection import naive_coincide
from tests.selection.selection_cases import kernel_of, unit_features


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_kernel_matches_the_formula(sigma: float) -> None:
    """Fixed-point entries are within half a unit of the float64 formula."""
    features = unit_features(30, 32, 5)
    full = kernel_of(features, sigma)
    entries = full.values_NN / ONE
    assert np.abs(entries - naive_coincide.kernel(features, sigma)).max() < 1e-9
    assert (full.sums_N == np.rint(entries * ONE).sum(axis=1)).all()


def test_unit_rows_have_the_kernel_exp_of_cosine_minus_one() -> None:
    """K(x, y) = exp(cos - 1) for unit rows and sigma = 1 (oracle 2)."""
    rows = unit_features(25, 64, 8).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    full = kernel_of(rows, 1.0)
    entries = full.values_NN / ONE
    assert np.abs(entries - np.exp(rows @ rows.T - 1)).max() < 2e-8


def test_tiles_do_not_change_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrored tiles of any height give the same sums and rows."""
    features = unit_features(50, 24, 2)
    whole = kernel_of(features, 1.0)
    monkeypatch.setattr(kernel_module, "TILE_ROWS", 7)
    tiled = kernel_of(features, 1.0)
    assert (whole.sums_N == tiled.sums_N).all()
    assert (whole.values_NN == tiled.values_NN).all()


def test_exact_duplicates_have_similarity_one() -> None:
    """Copies of a row have kernel exactly 1 with it, in tiles apart too."""
    features = np.repeat(unit_features(1, 40, 1), 2100, axis=0)
    assert (kernel_of(features, 1.0).sums_N == 2100 * ONE).all()


def test_zero_rows_are_ordinary_points() -> None:
    """A row of length zero has a finite kernel."""
    features = np.zeros((3, 8), dtype=np.float16)
    features[0] = unit_features(1, 8, 0)
    full = kernel_of(features, 1.0)
    assert full.values_NN[1, 2] == ONE
    assert abs(full.values_NN[0, 1] / ONE - np.exp(-0.5)) < 1e-3


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_width_is_a_user_error(sigma: float) -> None:
    """A kernel width that is not positive is refused with its value."""
    with pytest.raises(UserError, match="sigma is"):
        gaussian_kernel(unit_features(3, 8, 0), np.ones(3), sigma)


def test_too_many_rows_are_a_user_error() -> None:
    """A cluster beyond the integer range is refused before any work."""
    with pytest.raises(UserError, match="max_rows"):
        gaussian_kernel(np.zeros((MAX_ROWS + 1, 1), dtype=np.float16), np.zeros(MAX_ROWS + 1), 1.0)


def test_a_kernel_beyond_its_memory_is_the_same_in_a_file() -> None:
    """A mapped temporary file holds the same numbers, and leaves nothing behind."""
    features = unit_features(120, 24, 2)
    norms = squared_norms(features)
    inside, outside = gaussian_kernel(features, norms, 1.0), gaussian_kernel(features, norms, 1.0, kernel_bytes=1)
    assert isinstance(outside.values_NN, np.memmap)
    assert (inside.values_NN == outside.values_NN).all()
    assert (inside.sums_N == outside.sums_N).all()


def test_no_room_for_the_file_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is reported before any work, with what to do."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_module.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="set TMPDIR to a larger disk"):
        gaussian_kernel(unit_features(5, 8, 0), np.ones(5), 1.0, kernel_bytes=1)
