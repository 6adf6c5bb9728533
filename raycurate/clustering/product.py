"""Which matrix product screens k-means: the fastest one on this machine.

    scores_NK = rows_ND @ vectors_KD^T

torch's float32 product, torch's bfloat16 product and NumPy's float32 product (OpenBLAS) differ by up to sixty times
from one CPU to the next, so on a CPU each process times them once on a problem small enough that others on the machine
seldom disturb it. Any of them serves: the bound on the error of a score (see ``screening``) holds for every order of
addition in float32, and close calls are scored again, so the choice never changes a label. A GPU takes bfloat16, and so
does a CPU for ``fast`` results if it has units for it: those are the screen's own, and must not depend on a timing.

Cost: a dozen products of 0.13 GFLOP.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

TRIAL_ROWS, TRIAL_CLUSTERS, TRIAL_DIM, TRIALS = 256, 256, 1024, 3


@dataclass(frozen=True, slots=True)
class Product:
    """A way to multiply: the type of both factors and of the scores, and the function that fills these."""

    name: str
    dtype: torch.dtype
    fill: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]


def _by_torch(rows_ND: torch.Tensor, vectors_KD: torch.Tensor, scores_NK: torch.Tensor) -> torch.Tensor:
    return torch.mm(rows_ND, vectors_KD.T, out=scores_NK)


def _by_numpy(rows_ND: torch.Tensor, vectors_KD: torch.Tensor, scores_NK: torch.Tensor) -> object:
    return np.matmul(rows_ND.numpy(), vectors_KD.numpy().T, out=scores_NK.numpy())


FLOAT32 = Product("torch float32", torch.float32, _by_torch)
BFLOAT16 = Product("torch bfloat16", torch.bfloat16, _by_torch)
NUMPY = Product("NumPy float32", torch.float32, _by_numpy)


def product_for(device: torch.device, precision: str) -> Product:
    """The product that screens rows on a device, "exact" or "fast"."""
    if device.type == "cuda":
        return BFLOAT16
    units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if precision == "fast":
        return BFLOAT16 if units else FLOAT32
    return _fastest((FLOAT32, NUMPY, BFLOAT16) if units else (FLOAT32, NUMPY))


@functools.cache
def _fastest(candidates: tuple[Product, ...]) -> Product:
    """The fastest of some products."""
    return candidates[int(np.argmin([trial_seconds(product) for product in candidates]))]


def trial_seconds(product: Product, shape: Sequence[int] = (TRIAL_ROWS, TRIAL_CLUSTERS, TRIAL_DIM)) -> float:
    """Seconds of the best of a few products of ``shape`` (N, K, D), after one that is not counted."""
    num_rows, num_clusters, dim = shape
    rows_ND, vectors_KD = (torch.full((n, dim), 0.5, dtype=product.dtype) for n in (num_rows, num_clusters))
    scores_NK = torch.empty((num_rows, num_clusters), dtype=product.dtype)
    times = []
    for _ in range(1 + TRIALS):
        started = time.perf_counter()
        product.fill(rows_ND, vectors_KD, scores_NK)
        times.append(time.perf_counter() - started)
    return min(times[1:])
