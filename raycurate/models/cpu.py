"""What a process that runs a model on CPU cores sets first: its threads, and how many compiled kernels it keeps.

oneDNN compiles its bfloat16 products anew for each shape and, like the layer between it and torch, keeps the last
1,024. Batches of text come in ever new shapes, so the caches fill and are seldom hit. Measured with the embedded model
in bfloat16 on AVX512-BF16 cores: 40,000 rows took a process from 620 to 1,150 MiB; with 32 kernels kept it stays below
690, at the same rows/s. A batch uses one for each different shape of a weight matrix.
"""

from __future__ import annotations

import os

import torch

KERNELS_KEPT = 32
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Read once by oneDNN and by ideep, at the process's first product; there is no other way to tell them."""


def prepare_cpu(threads: int) -> None:
    """Before a model's first batch on CPU cores. Capacities that the environment has already are left alone."""
    torch.set_num_threads(threads)
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS_KEPT))
