from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection.density import density_of, merge_densities
from raycurate.selection.mmd import rank_cluster
from tests.selection import naive_coincide
from tests.selection.selection_cases import kernel_of, sample_keys, unit_features


@given(rows=st.integers(1, 30), seed=st.integers(0, 1000), sigma=st.sampled_from([0.5, 1.0, 2.0]))
def test_both_readings_match_the_formulas(rows: int, seed: int, sigma: float) -> None:
    """D over distinct pairs and D over all pairs equal the float64 reference."""
    features = unit_features(rows, 16, seed)
    found = density_of(kernel_of(features, sigma).sums_N.tolist())
    reference = naive_coincide.kernel(features, sigma)
    assert found.paper == pytest.approx(naive_coincide.density(reference, "paper"), abs=1e-9)
    assert found.code == pytest.approx(naive_coincide.density(reference, "code"), abs=1e-9)
    assert found.code == pytest.approx((1 + (rows - 1) * found.paper) / rows, abs=1e-15)


def test_a_singleton_and_duplicates_have_density_one() -> None:
    """Where there is no pair, or only pairs of copies, both readings are 1."""
    for rows in (1, 4):
        features = np.repeat(unit_features(1, 16, 0), rows, axis=0)
        found = density_of(kernel_of(features, 1.0).sums_N.tolist())
        assert (found.paper, found.code) == (1.0, 1.0)


def test_chunks_merge_in_any_order_and_estimate_the_whole() -> None:
    """The density of a cluster ranked in chunks is close to that of all pairs."""
    features = unit_features(900, 24, 1)
    keys = np.array(sample_keys(900), dtype=np.bytes_)
    whole = rank_cluster(features, keys).density
    split = rank_cluster(features, keys, max_rows=200).density
    assert split.size == whole.size
    assert split.pairs < whole.pairs
    assert split.paper == pytest.approx(whole.paper, abs=2e-3)
    parts = [density_of(kernel_of(features[start : start + 300], 1.0).sums_N.tolist()) for start in (0, 300, 600)]
    assert merge_densities(parts) == merge_densities(reversed(parts))
