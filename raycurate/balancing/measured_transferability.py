"""Transferability as it is measured, against its cosine proxy (COINCIDE, arXiv 2406.10995, Eqs. 4 and 5).

For a source cluster i and a target cluster j, a model is trained on n rows of i and n of j, and one on n rows of j
alone; both are scored by their loss on held-out rows of j.

    T_i = (1 / K_t) sum_j (L_j - L_ij)      (4)        positive where i helps the targets on mean
    S_i = (1 / K) sum_j cos(e_i, e_j)       (5)        `selection/transferability.py`

What the proxy is worth is the correlation of S with T over the sources, Pearson's and Spearman's.

Not every pair need be trained: a pair without a loss is nan, and T_i is then the mean over the targets that i was
measured on (`targets_S` counts them). Draw the same targets for every source, or balance the draw: targets differ in
how much they can gain, and a source that got the easy ones looks better. A source without any pair has T nan and is
left out of the correlation.

Cost: S * T subtractions; the trainings are T + S * T, 2,550 at the paper's size of 50 x 50.
Limits: the bootstrap draws sources, not targets: the interval holds for these targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycurate.balancing.correlation import Correlation, correlate
from raycurate.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeasuredTransferability:
    """T and S of each source with the number of targets behind T, and how they go together."""

    measured_S: Array
    proxy_S: Array
    targets_S: NDArray[np.int64]
    pearson: Correlation
    spearman: Correlation

    @property
    def why_none(self) -> str | None:
        """Why T and S have no correlation, where they have none."""
        for name, values_S in (("T", self.measured_S[self.targets_S > 0]), ("S", self.proxy_S[self.targets_S > 0])):
            if np.ptp(values_S) == 0:
                return f"all {len(values_S)} values of {name} are {values_S[0]:g}: equal numbers have no correlation"
        if self.pearson.value is None:
            return "T and S vary too little for a correlation"
        return None


def measured_transferability(alone_T: Array, joint_ST: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return T of Eq. 4, float64 [S], and the number of targets behind each.

    Args:
        alone_T: L_j, the loss of each target after training on it alone.
        joint_ST: L_ij, nan where a pair was not trained.

    Raises:
        UserError: shapes that do not fit, an infinite loss, or a target that has pairs and no loss of its own.
    """
    if joint_ST.ndim != 2 or alone_T.shape != joint_ST.shape[1:]:
        raise UserError(f"losses of shape {joint_ST.shape} [sources, targets] do not fit {alone_T.shape} [targets]")
    if np.isinf(joint_ST).any() or np.isinf(alone_T).any():
        raise UserError("a loss is infinite; give nan for a pair that was not trained")
    pairs_ST = ~np.isnan(joint_ST)
    lacking = np.flatnonzero(pairs_ST.any(axis=0) & np.isnan(alone_T))
    if lacking.size:
        raise UserError(f"target {lacking[0]} has losses of pairs and no loss of its own; train on it alone first")
    gains_ST = np.where(pairs_ST, alone_T - joint_ST, 0.0)
    targets_S = pairs_ST.sum(axis=1)
    unknown_S = np.full(len(joint_ST), np.nan)
    return np.divide(gains_ST.sum(axis=1), targets_S, out=unknown_S, where=targets_S > 0), targets_S


def compare_with_proxy(
    alone_T: Array, joint_ST: Array, proxy_S: Array, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> MeasuredTransferability:
    """Return T, S and their correlations over the sources that were measured.

    Args:
        alone_T: as in `measured_transferability`.
        joint_ST: as in `measured_transferability`.
        proxy_S: S of Eq. 5 for each source.
        resamples: of the bootstrap.
        level: part of the resamples that an interval holds.
        seed: of the bootstrap.

    Raises:
        UserError: as `measured_transferability` and `correlate`.
    """
    measured_S, targets_S = measured_transferability(alone_T, joint_ST)
    if proxy_S.shape != measured_S.shape:
        raise UserError(f"{len(measured_S)} sources have losses, but the proxy has shape {proxy_S.shape}")
    known = targets_S > 0
    pearson, spearman = correlate(measured_S[known], proxy_S[known], resamples=resamples, level=level, seed=seed)
    return MeasuredTransferability(measured_S, proxy_S, targets_S, pearson, spearman)
