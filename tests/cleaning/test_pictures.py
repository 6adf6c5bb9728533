"""Pixels have a hash that other encodings share, and near pictures have near perceptual hashes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raycurate.cleaning.pictures import (
    MEAN,
    PATTERN,
    WINDOWS,
    differing_bits,
    perceptual_hashes,
    print_picture,
    shades_agree,
)
from tests.cleaning.pictures_cases import cropped, encoded, reencoded, scene

SCENES = range(12)
BITS = 8


def bits(left, right) -> int:
    return int(differing_bits(left[:1], right[:1])[0, 0])


def test_lossless_encodings_have_the_same_pixels():
    """PNG, BMP and lossless WebP of one picture; another size of it has others."""
    image = scene(0)
    files = [encoded(image), encoded(image, "BMP"), encoded(image, "WEBP", lossless=True)]
    made = {print_picture(Image.open(io.BytesIO(data)).convert("RGB")).pixels for data in files}
    assert made == {print_picture(image).pixels}
    assert print_picture(image.resize((120, 90))).pixels not in made


@pytest.mark.parametrize("seed", SCENES)
def test_reencoded_and_resized_pictures_are_near(seed):
    """JPEG at 40, half the size, a little darker: few bits and the same shades."""
    image = scene(seed)
    own = print_picture(image)
    for other in (reencoded(image, 40), image.resize((120, 90)), image.point(lambda v: v * 0.95)):
        found = print_picture(other)
        assert bits(own.hash_V, found.hash_V) <= BITS
        assert shades_agree(own.shade_S[None], found.shade_S[None]).all()


@pytest.mark.parametrize("seed", SCENES)
@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 0.3), (0.5, 0.5), (0.2, 1.0)])
def test_a_crop_by_5_percent_is_near_one_of_the_windows(seed, corner):
    """Wherever it was cut out, and in both directions."""
    image = scene(seed)
    whole, part = print_picture(image), print_picture(cropped(image, 0.05, *corner))
    assert differing_bits(part.hash_V[:1], whole.hash_V).min() <= BITS
    assert shades_agree(whole.shade_S[None], part.shade_S[None]).all()


def test_other_pictures_are_far():
    """No two scenes are near, whole or as crops."""
    prints = [print_picture(scene(seed)) for seed in range(40)]
    hash_NV = np.stack([each.hash_V for each in prints])
    near = [differing_bits(hash_NV[:, 0], hash_NV[:, window]) <= BITS for window in range(len(WINDOWS))]
    assert not (np.any(near, axis=0) & ~np.eye(len(prints), dtype=bool)).any()


def test_flat_pictures_are_near_only_in_the_same_colour():
    """A flat picture has no pattern: its hash is that of any other flat one, its shades are not."""
    red, darker, blue = (print_picture(Image.new("RGB", (30, 40), c)) for c in ((200, 0, 0), (180, 0, 0), (0, 0, 200)))
    assert bits(red.hash_V, blue.hash_V) == 0
    assert shades_agree(red.shade_S[None], np.stack([darker.shade_S, blue.shade_S])).tolist() == [[True, False]]


def test_shades_agree_as_correlation_and_means_say():
    """Against the formula in float64, on random shades around each other."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (8, 192))
    left = np.clip(base + rng.normal(0, 30, base.shape), 0, 255).astype(np.uint8)
    right = np.clip(base[rng.integers(0, 8, 20)] + rng.normal(0, 40, (20, 192)), 0, 255).astype(np.uint8)
    expected = np.zeros((8, 20), dtype=bool)
    for i, a in enumerate(left.astype(float)):
        for j, b in enumerate(right.astype(float)):
            a3, b3 = a.reshape(64, 3), b.reshape(64, 3)
            x, y = (a3 - a3.mean(axis=0)).ravel(), (b3 - b3.mean(axis=0)).ravel()
            means = np.abs(a3.mean(axis=0) - b3.mean(axis=0)).max()
            expected[i, j] = x @ y / np.sqrt((x @ x) * (y @ y)) >= PATTERN and means <= MEAN
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(shades_agree(left, right), expected)


def test_hashes_do_not_depend_on_the_number_of_windows_beside_them():
    """A hash is a function of one window; tiny pictures have them too."""
    made = perceptual_hashes(Image.new("RGB", (2, 2), (9, 9, 9)))
    assert made.shape == (len(WINDOWS),)
    assert made.dtype == np.uint64
