"""Small data for the clustering tests."""

from __future__ import annotations

import numpy as np
import torch

from raycurate.clustering.exactness import on_grid


def unit_half(rows: np.ndarray) -> torch.Tensor:
    """Any rows as float16 unit rows."""
    wide = np.asarray(rows, dtype=np.float64)
    return torch.from_numpy((wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16))


def mixture(num_rows: int, dim: int, groups: int, seed: int = 0, spread: float = 0.5) -> torch.Tensor:
    """Unit rows around ``groups`` directions that share a common part, as model features do."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, dim)) + rng.standard_normal(dim)
    return unit_half(centres[rng.integers(0, groups, num_rows)] + spread * rng.standard_normal((num_rows, dim)))


def grid_centroids(rows: torch.Tensor) -> torch.Tensor:
    """Float32 unit centroids on the grid from any rows."""
    wide = rows.double()
    return on_grid(wide / wide.norm(dim=1, keepdim=True))
