"""Similarities counted in bins against all of them sorted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raycurate.clustering.similarities import WIDTH, SimilarityCounts


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=300), st.floats(0, 1))
def test_quantiles_are_right_to_a_bin(values, part):
    """The quantile, the mean, and the part of the rows below a similarity."""
    similarity_N = np.array(values, dtype=np.float32)
    counts = SimilarityCounts()
    for block in np.array_split(similarity_N, 3):
        counts.add(block)
    exact = np.sort(similarity_N.astype(np.float64))[min(int(part * len(values)), len(values) - 1)]
    found = counts.quantile(part)
    assert exact - WIDTH - 1e-9 <= found <= exact + 1e-9
    assert np.isclose(counts.mean, similarity_N.astype(np.float64).mean())
    assert (similarity_N < found - 1e-9).mean() <= counts.share_below(found) + 1e-12
    assert counts.share_below(found) <= (similarity_N < found + 1e-9).mean() + 1e-12
