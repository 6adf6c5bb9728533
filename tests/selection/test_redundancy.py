from __future__ import annotations

import numpy as np
import pytest

from raycurate.selection.redundancy import redundancy, unit_sum


def test_row_sums_equal_the_correlation_matrix() -> None:
    """z_i . sum_j z_j is the sum of row i of the Pearson matrix (oracle 8)."""
    rows = np.random.default_rng(0).normal(size=(40, 16)) + np.linspace(0, 3, 16)
    total = unit_sum(rows[:15]) + unit_sum(rows[15:])
    assert redundancy(rows, total) == pytest.approx(np.corrcoef(rows).sum(axis=1), abs=1e-6)


def test_constant_rows_are_not_redundant() -> None:
    """A row without variance has no correlation, and no NaN."""
    rows = np.vstack([np.ones(8), np.arange(8.0)])
    assert redundancy(rows, unit_sum(rows)).tolist() == pytest.approx([0.0, 1.0])
