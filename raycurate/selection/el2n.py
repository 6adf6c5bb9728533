"""EL2N of one sample: the mean over answer tokens of ||p_t - onehot(y_t)||_2 (Paul et al. 2021, as COINCIDE
runs it).

    ||p - onehot(y)||_2 = sqrt(sum_v p_v^2 - 2 p_y + 1)

so two numbers a token are enough and no [T, V] one-hot is made. Cost: T * V.
Limits: a sample without answer tokens has no score (NaN), and must not be ranked as easy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def el2n_from_moments(square_sum_T: NDArray[np.floating], label_prob_T: NDArray[np.floating]) -> float:
    """Return EL2N from sum_v p_v^2 and p_y of each answer token, both [T]; NaN for T = 0."""
    if square_sum_T.shape[0] == 0:
        return float("nan")
    square_T = square_sum_T.astype(np.float64) - 2.0 * label_prob_T.astype(np.float64) + 1.0
    return float(np.sqrt(np.maximum(square_T, 0.0)).mean())


def el2n_from_probs(probs_TV: NDArray[np.floating], labels_T: NDArray[np.integer]) -> float:
    """Return EL2N from token distributions [T, V] and label ids [T]; NaN for T = 0."""
    wide_TV = probs_TV.astype(np.float64)
    label_T = np.take_along_axis(wide_TV, labels_T[:, None].astype(np.int64), axis=1)[:, 0]
    return el2n_from_moments(np.einsum("tv,tv->t", wide_TV, wide_TV), label_T)
