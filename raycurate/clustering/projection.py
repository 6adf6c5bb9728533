"""Random projection of the rows before k-means: y = R x, normalised, float16.

Johnson-Lindenstrauss: with m dimensions, cosines keep their values within about 1 / sqrt(m). R is Rademacher (+-1,
Achlioptas 2003) from a seeded counter-based generator, made by blocks of input dimensions. Rows are multiples of 2^-24
and |y| <= sqrt(D), so float64 holds R x without rounding for D up to 2^40: the projected float16 rows have the same
bits for any blocking or thread count.

Cost: 2 N D m float64 FLOP once, against 2 N D K per iteration without projection; R takes D * m bytes.
"""

from __future__ import annotations

import numpy as np
import torch

from raycurate.clustering.exactness import row_blocks, tree_sum
from raycurate.errors import UserError

BLOCK_DIM = 2048


class Projection:
    """A seeded Rademacher matrix of ``dim`` by ``target`` entries."""

    def __init__(self, dim: int, target: int, seed: int, device: torch.device) -> None:
        if target >= dim:
            raise UserError(
                f"project is {target}, but the features have only {dim} dimensions. Set it below {dim} or leave it out."
            )
        self.target = target
        self.signs_Dm = torch.empty((dim, target), dtype=torch.int8, device=device)
        for number, rows in enumerate(row_blocks(dim, BLOCK_DIM)):
            generator = np.random.Generator(np.random.Philox(key=[seed, number]))
            bits = generator.integers(0, 2, (rows.stop - rows.start, target), dtype=np.int8)
            self.signs_Dm[rows] = torch.from_numpy(bits * 2 - 1).to(device)

    def __call__(self, rows_ND: torch.Tensor) -> torch.Tensor:
        """Float16 unit rows [N, D] -> float16 unit rows [N, m]."""
        out_Nm = torch.zeros((rows_ND.shape[0], self.target), dtype=torch.float64, device=rows_ND.device)
        for dims in row_blocks(rows_ND.shape[1], BLOCK_DIM):
            out_Nm += rows_ND[:, dims].double() @ self.signs_Dm[dims].double()
        norms_N = tree_sum(out_Nm * out_Nm).sqrt_()
        return (out_Nm / torch.where(norms_N > 0, norms_N, 1.0)[:, None]).half()
