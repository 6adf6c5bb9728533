"""Tests of raycurate.clustering.memory: rows stay in memory as far as they fit, and too much is refused."""

from __future__ import annotations

import pytest
import torch

from raycurate import device
from raycurate.clustering import memory
from raycurate.clustering.memory import Footprint, cache_bytes
from raycurate.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LARGE = Footprint(clusters=10_000, dim=20_480)


def with_free(monkeypatch, gib: float) -> None:
    """Let every device have this much free memory."""
    monkeypatch.setattr(memory, "free_memory", lambda device: int(gib * 2**30))


def test_a_large_card_keeps_all_rows(monkeypatch):
    """665,298 rows of 20,480 and 10,000 clusters on 80 GB: all 27 GB, without a setting."""
    with_free(monkeypatch, 78)
    assert cache_bytes(None, 665_298, LARGE, CUDA) == 2 * 665_298 * 20_480


def test_what_does_not_fit_is_left_to_the_file(monkeypatch):
    """The rows' share of a smaller card, and nothing of a full one."""
    with_free(monkeypatch, 24)
    kept = cache_bytes(None, 665_298, LARGE, CUDA)
    assert 0 < kept == int(0.9 * 24 * 2**30) - LARGE.needed("cuda") < 2 * 665_298 * 20_480
    with_free(monkeypatch, 0.1 + LARGE.needed("cuda") / 2**30)
    assert cache_bytes(None, 665_298, LARGE, CUDA) == 0


def test_workers_of_one_machine_share_its_memory(monkeypatch):
    """Two take half as many rows each, beside their own sums."""
    small = Footprint(clusters=100, dim=256, workers=2, sharing=2)
    with_free(monkeypatch, 8)
    assert cache_bytes(None, 10**8, small, CPU) == int(0.4 * 4 * 2**30) - small.needed("cpu")


@pytest.mark.parametrize(("device_", "place"), [(CPU, "memory"), (CUDA, "GPU memory")])
def test_clusters_that_do_not_fit_are_refused(monkeypatch, device_, place):
    """Value, bound and fix."""
    with_free(monkeypatch, 2)
    with pytest.raises(UserError, match=rf"10000 clusters of 20480 .* 2\.00 GiB of free {place}.*cluster\.project"):
        cache_bytes(None, 665_298, LARGE, device_)


def test_a_setting_that_does_not_fit_is_refused(monkeypatch):
    """Rather than an allocation that fails later; what fits is kept as asked."""
    with_free(monkeypatch, 24)
    assert cache_bytes(2, 665_298, LARGE, CUDA) == 2 << 30
    assert cache_bytes(99, 1000, LARGE, CUDA) == 2 * 1000 * 20_480
    with pytest.raises(UserError, match=r"cluster\.cache_gb=20 keeps.*leave cluster\.cache_gb out"):
        cache_bytes(20, 665_298, LARGE, CUDA)


def test_a_container_bounds_what_is_free(monkeypatch, tmp_path):
    """The limit of the container, not the memory of its machine; pages of files do not count."""
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    whole = device.free_memory(CPU)
    assert whole > 1000
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 300\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert device.free_memory(CPU) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert device.free_memory(CPU) > 1000
