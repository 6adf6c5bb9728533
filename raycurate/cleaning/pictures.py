"""An image in forms that can be compared: its pixels' hash, perceptual hashes of it and of its crops, and its shades.

    pixels  = blake2b-128 of the size and the RGB values, as a viewer shows them
    hash    = 64 bits: grey 32 x 32 --DCT--> the 8 x 8 lowest frequencies, each above their median or not     (pHash)
    crops   = the same of `WINDOWS`: parts of the image that a crop by about 5 % may leave
    shades  = 8 x 8 mean RGB values

Two images are near if their hashes differ in few bits and their shades agree: as a pattern (correlation `PATTERN`) and
in the mean of each channel (`MEAN`); a hash alone takes a red shape for a blue one, and flat images for anything. One
is near the crop of another if its hash is near one of the other's crops'. All of it is whole numbers, or float64 that
cannot round: the same answer for any blocks and threads.

Cost: one decode, 16 small DCTs: 1 to 2 ms besides the decode. 336 bytes an image. Limits: turned, mirrored or
strongly cropped images are not found; drawings of few lines lie closer together than photos.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, LOW = 32, 8
LONGEST = 256
WINDOWS: tuple[tuple[float, float, float, float], ...] = (
    (0.0, 0.0, 1.0, 1.0),
    *((x, y, x + 0.95, y + 0.95) for y in (0.0, 0.025, 0.05) for x in (0.0, 0.025, 0.05)),
    (0.05, 0.05, 0.95, 0.95),
    (0.05, 0.0, 1.0, 1.0),
    (0.0, 0.0, 0.95, 1.0),
    (0.0, 0.05, 1.0, 1.0),
    (0.0, 0.0, 1.0, 0.95),
)
"""Left, top, right and bottom of the whole image and of its crops, as parts of its sides."""
PIXEL_BYTES, SHADE_BYTES = 16, 3 * LOW * LOW
PATTERN, MEAN = 0.8, 32.0


@dataclass(frozen=True, slots=True)
class PicturePrint:
    """The prints of one image.

    Attributes:
        pixels: 16 bytes.
        hash_V: of the whole image, then of its crops, uint64 [V].
        shade_S: uint8 [192].
    """

    pixels: bytes
    hash_V: NDArray[np.uint64]
    shade_S: NDArray[np.uint8]


def print_picture(image: Image.Image) -> PicturePrint:
    """The prints of an RGB image."""
    pixels = hashlib.blake2b(repr(image.size).encode(), digest_size=PIXEL_BYTES)
    pixels.update(image.tobytes())
    shades = np.asarray(image.resize((LOW, LOW), Image.Resampling.BOX), dtype=np.uint8)
    return PicturePrint(pixels.digest(), perceptual_hashes(image), shades.reshape(-1))


def perceptual_hashes(image: Image.Image) -> NDArray[np.uint64]:
    """The hash of the image and of each of its crops, [V]."""
    from scipy.fft import dctn

    grey = image.convert("L")
    grey.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    boxes = [(x0 * grey.width, y0 * grey.height, x1 * grey.width, y1 * grey.height) for x0, y0, x1, y1 in WINDOWS]
    small = [np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)) for box in boxes]
    low_VF = dctn(np.stack(small).astype(np.float64), axes=(1, 2), norm="ortho")[:, :LOW, :LOW].reshape(len(boxes), -1)
    low_VF = low_VF.round(6)  # what is flat has zeros, not their rounding errors
    bits_VF = low_VF > np.median(low_VF, axis=1, keepdims=True)
    return np.packbits(bits_VF, axis=1).view(">u8").ravel().astype(np.uint64)


def differing_bits(left_N: NDArray[np.uint64], right_M: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bits in which hashes differ, [N, M]."""
    counted: NDArray[np.uint8] = np.bitwise_count(left_N[:, None] ^ right_M[None, :])
    return counted


def shades_agree(left_NS: NDArray[np.uint8], right_MS: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether the shades of two images are alike, [N, M]."""
    centred_NS, left_N, left_NC = _centred(left_NS)
    centred_MS, right_M, right_MC = _centred(right_MS)
    product_NM = centred_NS @ centred_MS.T
    flat_NM = (left_N[:, None] == 0) & (right_M[None, :] == 0)
    pattern_NM = flat_NM | ((product_NM > 0) & (product_NM**2 >= PATTERN**2 * left_N[:, None] * right_M[None, :]))
    apart_NM = np.abs(left_NC[:, None] - right_MC[None, :]).max(axis=2)
    agree_NM: NDArray[np.bool_] = pattern_NM & (apart_NM <= MEAN)
    return agree_NM


def _centred(shade_NS: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Whole numbers: cells minus their channel's mean, times 64, [N, S]; their squared length, [N]; means, [N, 3]."""
    cells_NKC = shade_NS.reshape(len(shade_NS), LOW * LOW, 3).astype(np.float64)
    sum_NC = cells_NKC.sum(axis=1)
    centred_NS = (cells_NKC * (LOW * LOW) - sum_NC[:, None]).reshape(len(shade_NS), SHADE_BYTES)
    return centred_NS, (centred_NS**2).sum(axis=1), sum_NC / (LOW * LOW)
