"""Arithmetic on tensors that lie on a device of no numbers: a tensor left on the CPU beside them is an error.

`test_fake_device.py` runs this file in a process of its own, as the device stays with the process. It stands for a GPU
in what a torch without CUDA can follow: everything up to the first value that the host asks for.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
)
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from raycurate.clustering import exactness
from raycurate.clustering.exactness import on_grid, row_dots, tree_sum, unit_centroids
from raycurate.clustering.sums import ClusterSums
from raycurate.features.pooling import VARIANTS, pool_tokens, unit_rows
from raycurate.training.vitw import (
    gradient_shares,
    next_labels,
    token_counts,
    token_losses,
    weight_sum,
    weighted_sums,
)

_setup_privateuseone_for_python_backend("fake")
DEVICE = torch.device("fake:0")


@pytest.fixture(autouse=True)
def mode():
    """Tensors that a test makes hold no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor on the GPU."""
    return torch.empty(shape, dtype=dtype, device=DEVICE)


def test_a_tensor_that_stayed_on_the_cpu_is_found():
    """What the other tests rely on."""
    with pytest.raises(RuntimeError, match="same device"):
        made(3) + torch.ones(3)


def test_pooling_stays_on_the_gpu():
    """Of every dtype that models run in."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found = pool_tokens(made(2, 7, 8, dtype=dtype), made(2, 2, 7, dtype=torch.bool))
        assert (found.device.type, found.shape) == ("fake", (2, 2, 8))


@pytest.mark.parametrize("variant", VARIANTS)
def test_unit_rows_ask_for_their_reasons_only(variant):
    """The first value that leaves the GPU is the flags of the rows."""
    with pytest.raises(DataDependentOutputException):
        unit_rows(made(3, 2, 2, 8), made(3, 2, dtype=torch.int64), variant)


@pytest.mark.parametrize("by_row", [False, True])
def test_the_weighted_loss_and_its_gradient_stay_on_the_gpu(by_row):
    """Losses, sums and counts of a micro-batch, one all-reduce's tensor, and the gradient."""
    logits = made(2, 5, 11).requires_grad_()
    labels, tasks = made(2, 6, dtype=torch.int64), made(2, dtype=torch.int64)
    weights = made(3, dtype=torch.float64)
    kept = next_labels(labels, torch.arange(5, device=DEVICE))
    sums = weighted_sums(token_losses(logits, kept), kept, tasks, weights, made(2) if by_row else None)
    sums.weighted.backward()
    stacked = sums.stacked(weights)
    shares = gradient_shares(stacked[3])
    counts = token_counts(labels, tasks, 3), weight_sum(labels, tasks, weights)
    assert {t.device.type for t in (logits.grad, stacked, shares, *counts)} == {"fake"}


def test_sums_and_centroids_stay_on_the_gpu(monkeypatch):
    """Of k-means: the scatter of moved rows, the next centroids, similarity sums."""
    monkeypatch.setitem(exactness.TREE_BYTES, "fake", exactness.TREE_BYTES["cuda"])
    totals = ClusterSums(4, 8, DEVICE)
    index = made(6, dtype=torch.int64)
    totals._scatter(made(6, 8, dtype=torch.float16), index, index, made(6))
    centroids = unit_centroids(totals.sums_KD, made(4, 8))
    found = (totals.sums_KD, centroids, row_dots(totals.sums_KD, centroids), tree_sum(made(3, 8)), on_grid(made(2)))
    assert {tensor.device.type for tensor in found} == {"fake"}
