"""Tests of raycurate.clustering.projection."""

from __future__ import annotations

import pytest
import torch

from raycurate.clustering.projection import Projection
from raycurate.errors import UserError
from tests.clustering.clustering_cases import mixture


def test_projected_rows_are_unit_halves_with_the_same_bits_in_any_block():
    """Row by row and together; another seed gives other rows."""
    rows = mixture(40, 3000, 4)
    project = Projection(3000, 128, 7, rows.device)
    together = project(rows)
    assert together.dtype is torch.float16
    assert torch.equal(together, torch.cat([project(rows[i : i + 1]) for i in range(40)]))
    assert torch.allclose(together.float().norm(dim=1), torch.ones(40), atol=2e-3)
    assert not torch.equal(together, Projection(3000, 128, 8, rows.device)(rows))


def test_cosines_survive_the_projection():
    """Within a few 1 / sqrt(m)."""
    rows = mixture(30, 2000, 5)
    projected = Projection(2000, 512, 0, rows.device)(rows).double()
    error = (projected @ projected.T - rows.double() @ rows.double().T).abs().max()
    assert float(error) < 4 / 512**0.5


def test_a_projection_that_does_not_reduce_is_refused():
    """project >= D."""
    with pytest.raises(UserError, match="only 16 dimensions"):
        Projection(16, 16, 0, torch.device("cpu"))
