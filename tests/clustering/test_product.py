"""Tests of raycurate.clustering.product: the fastest product is taken, and none changes a label."""

from __future__ import annotations

import time

import pytest
import torch

from raycurate.clustering import product as module
from raycurate.clustering.kmeans import KMeansSettings, spherical_kmeans
from raycurate.clustering.product import BFLOAT16, FLOAT32, NUMPY, Product, product_for, trial_seconds
from tests.clustering.clustering_cases import mixture

CPU = torch.device("cpu")


@pytest.fixture
def fresh():
    """No product was timed yet, nor after the test."""
    module._fastest.cache_clear()
    yield
    module._fastest.cache_clear()


@pytest.mark.parametrize("slow", [FLOAT32, NUMPY, BFLOAT16])
def test_a_slow_product_is_not_taken_and_timed_once(monkeypatch, fresh, slow):
    """Whichever it is, on a CPU with units for all."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    timed = []

    def seconds(product):
        timed.append(product)
        return 1.0 if product is slow else 0.1

    monkeypatch.setattr(module, "trial_seconds", seconds)
    assert product_for(CPU, "exact") is product_for(CPU, "exact") is not slow
    assert sorted(product.name for product in timed) == sorted(p.name for p in (FLOAT32, NUMPY, BFLOAT16))


def test_a_cpu_without_units_does_not_try_bfloat16(monkeypatch, fresh):
    """There it is emulated, sixty times slower."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(module, "trial_seconds", lambda product: 0.0 if product is BFLOAT16 else 1.0)
    assert product_for(CPU, "exact") is not BFLOAT16
    assert product_for(CPU, "fast") is FLOAT32


def test_a_fast_result_does_not_depend_on_a_timing(monkeypatch, fresh):
    """The screen's own labels come from one product per machine."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(module, "trial_seconds", None)
    assert product_for(CPU, "fast") is BFLOAT16


def test_a_trial_takes_the_time_of_the_product():
    """The best of a few, the first one apart."""
    waits = iter([0.5, 0.03, 0.02, 0.04])
    slow = Product("slow", torch.float32, lambda rows, vectors, scores: time.sleep(next(waits)))
    assert 0.02 <= trial_seconds(slow) < 0.03


def test_a_fit_has_the_same_bits_by_every_product(monkeypatch):
    """Labels, centroids and similarities."""
    rows, found = mixture(500, 64, 6, spread=0.8), []
    for product in (FLOAT32, NUMPY, BFLOAT16):
        monkeypatch.setattr("raycurate.clustering.screening.product_for", lambda device, precision, of=product: of)
        found.append(spherical_kmeans(rows, KMeansSettings(clusters=20, iterations=5)))
    for other in found[1:]:
        assert (other.labels_N == found[0].labels_N).all()
        assert (other.centroids_KD == found[0].centroids_KD).all()
        assert (other.similarities_N == found[0].similarities_N).all()
