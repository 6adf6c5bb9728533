"""How much memory a process on CPU cores keeps for compiled kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from raycurate.models.cpu import KERNEL_CACHES, KERNELS_KEPT, prepare_cpu

MANY_SHAPES = """
import sys, psutil, torch
from raycurate.models.cpu import prepare_cpu
prepare_cpu(1)
layer = torch.nn.Linear(256, 256, dtype=torch.bfloat16)
with torch.inference_mode():
    layer(torch.zeros(1000, 256, dtype=torch.bfloat16))
    before = psutil.Process().memory_info().rss
    for rows in range(100, 1000, 2):
        layer(torch.zeros(rows, 256, dtype=torch.bfloat16))
print(psutil.Process().memory_info().rss - before)
"""


def growth(**environment: str) -> int:
    """Bytes that 450 shapes of batches add to a process."""
    clean = {key: value for key, value in os.environ.items() if key not in KERNEL_CACHES}
    command = [sys.executable, "-c", MANY_SHAPES]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_capacities_of_the_environment_win(monkeypatch):
    """What the user has set stays, the rest is set; the threads are the given ones."""
    given, other = KERNEL_CACHES
    monkeypatch.setenv(given, "7")
    monkeypatch.setenv(other, "")  # so that it is put back
    monkeypatch.delenv(other)
    threads = torch.get_num_threads()
    try:
        prepare_cpu(1)
        assert (os.environ[given], os.environ[other]) == ("7", str(KERNELS_KEPT))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="oneDNN keeps no bf16 kernels on this CPU")
def test_ever_new_shapes_do_not_fill_the_memory():
    """The kernels of 450 shapes are not kept: with oneDNN's own capacity they take several times as much."""
    theirs = growth(**dict.fromkeys(KERNEL_CACHES, "1024"))
    assert growth() < theirs / 2
