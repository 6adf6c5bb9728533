"""Coverage and overlap against their definitions on sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raycurate.selection.coverage import cluster_coverage, jaccard, shared_rows


def test_only_clusters_with_rows_count():
    """An empty cluster is neither covered nor missed."""
    coverage = cluster_coverage(np.array([5, 0, 2, 1]), np.array([1, 0, 0, 1]))
    assert (coverage.clusters, coverage.covered) == (3, 2)
    assert coverage.share == 2 / 3
    assert cluster_coverage(np.zeros(0, int), np.zeros(0, int)).share == 0


@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(0, 30))), st.integers(0, 30))
def test_overlap_is_that_of_the_sets_for_any_blocks(kept, cut):
    """|a & b| / |a | b| of row sets, counted in two blocks."""
    found = jaccard(shared_rows(kept[:, :cut]) + shared_rows(kept[:, cut:]))
    sets = [set(np.flatnonzero(row).tolist()) for row in kept]
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert found[i, j] == (len(a & b) / len(a | b) if a | b else 1.0)
