from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.selection import transferability as module
from raycurate.selection.transferability import transferability
from tests.selection import naive_coincide


def _centroids(count: int, dim: int, seed: int, spread: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=dim) + spread * random.normal(size=(count, dim))).astype(np.float32)


@given(count=st.integers(1, 25), seed=st.integers(0, 1000), spread=st.sampled_from([0.05, 0.3, 1.0, 3.0]))
def test_both_readings_match_the_formulas(count: int, seed: int, spread: float) -> None:
    """S equals the float64 reference, also where the mask leaves some or no targets."""
    centroids = _centroids(count, 24, seed, spread)
    for reading in ("paper", "code"):
        found = transferability(centroids, np.ones(count, dtype=int), reading=reading, block_dim=6)
        assert found == pytest.approx(naive_coincide.transferability(centroids, reading, 6), abs=1e-7)


@pytest.mark.parametrize("reading", ["paper", "code"])
def test_tiles_do_not_change_the_bits(reading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size give the same result."""
    centroids = _centroids(40, 24, 3)
    whole = transferability(centroids, np.ones(40, dtype=int), reading=reading, block_dim=6)
    monkeypatch.setattr(module, "TILE_ROWS", 7)
    assert (transferability(centroids, np.ones(40, dtype=int), reading=reading, block_dim=6) == whole).all()


def test_clusters_that_are_all_alike_fall_back_to_the_plain_mean() -> None:
    """Where the program divides 0 by 0, S is the mean over all targets."""
    centroids = np.repeat(_centroids(1, 24, 0), 4, axis=0)
    assert transferability(centroids, np.ones(4, dtype=int), reading="code", block_dim=6) == pytest.approx([1] * 4)


@pytest.mark.parametrize("reading", ["paper", "code"])
def test_empty_clusters_are_left_out(reading: str) -> None:
    """A cluster without rows changes nothing for the others and has S = 0."""
    centroids = _centroids(6, 24, 1)
    sizes = np.array([3, 0, 5, 1, 0, 2])
    found = transferability(centroids, sizes, reading=reading, block_dim=6)
    rest = transferability(centroids[sizes > 0], sizes[sizes > 0], reading=reading, block_dim=6)
    assert (found[sizes > 0] == rest).all()
    assert (found[sizes == 0] == 0).all()
    assert transferability(centroids[:0], sizes[:0], reading=reading, block_dim=6).shape == (0,)


@pytest.mark.parametrize("reading", ["paper", "code"])
def test_a_zero_centroid_has_cosine_zero(reading: str) -> None:
    """A centroid without direction is no NaN."""
    centroids = _centroids(3, 24, 1)
    centroids[1] = 0
    assert transferability(centroids, np.ones(3, dtype=int), reading=reading, block_dim=6)[1] == 0


def test_only_the_text_halves_count_in_the_program_s_reading() -> None:
    """Changing the vision halves does not change S of the reading `code`."""
    centroids = _centroids(8, 24, 2)
    other = centroids.copy().reshape(8, 2, 12)
    other[:, :, :6] *= -3
    sizes = np.ones(8, dtype=int)
    found = transferability(centroids, sizes, reading="code", block_dim=6)
    assert (transferability(other.reshape(8, 24), sizes, reading="code", block_dim=6) == found).all()


def test_bad_input_is_a_user_error() -> None:
    """Widths that make no [vision | text] pairs, and centroids that are not finite."""
    centroids = _centroids(3, 24, 0)
    with pytest.raises(UserError, match="width 24"):
        transferability(centroids, np.ones(3, dtype=int), reading="code", block_dim=5)
    centroids[0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        transferability(centroids, np.ones(3, dtype=int))
