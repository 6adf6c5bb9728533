"""The baselines of the COINCIDE paper, written as slow loops in float64 from their formulas."""

from __future__ import annotations

import math

import numpy as np


def el2n(probs: np.ndarray, labels: np.ndarray) -> float:
    """The mean over tokens of the distance between the distribution and the answer."""
    return float(np.linalg.norm(probs - np.eye(probs.shape[1])[labels], axis=1).mean())


def window(scores: list[float], keys: list[str], target: int, keep: str) -> set[str]:
    """Sort by (score, key) and cut."""
    sign = -1.0 if keep == "high" else 1.0
    ranked = [key for _, key in sorted((sign * score, key) for score, key in zip(scores, keys, strict=True))]
    start = (len(ranked) - target) // 2 if keep == "middle" else 0
    return set(ranked[start : start + target])


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Cosine of two vectors; 0 where one has no length."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    length = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / length if length else 0.0


def semdedup_values(rows: np.ndarray, keys: list[str], similarity: np.ndarray) -> dict[str, float]:
    """M_j of one cluster."""
    order = sorted(range(len(keys)), key=lambda i: (similarity[i], keys[i]))
    return {
        keys[j]: max((cosine(rows[i], rows[j]) for i in order[:place]), default=-1.0) for place, j in enumerate(order)
    }


def neighbours(rows: np.ndarray, keys: list[str], count: int) -> list[list[int]]:
    """The nearest rows of each row, ties by key."""
    found = []
    for i in range(len(keys)):
        others = [j for j in range(len(keys)) if j != i]
        found.append(sorted(others, key=lambda j: (-cosine(rows[i], rows[j]), keys[j]))[:count])
    return found


def _greedy(score: list[float], keys: list[str], near: list[list[int]], weight) -> list[str]:
    left, order = set(range(len(keys))), []
    while left:
        best = min(left, key=lambda i: (-score[i], keys[i]))
        left.remove(best)
        order.append(keys[best])
        for other in near[best]:
            if other in left:
                score[other] -= score[best] * weight(best, other)
    return order


def d2_order(
    rows: np.ndarray, keys: list[str], scores: list[float], k: int, gamma_r: float, gamma_f: float, eps: float
) -> list[str]:
    """Keys in the order that D2 pruning takes them."""
    near = neighbours(rows, keys, k)

    def distance(i: int, j: int) -> float:
        return max(0.0, 2 - 2 * cosine(rows[i], rows[j]))

    clipped = [max(score, eps) for score in scores]
    spread = [
        clipped[i] + sum(math.exp(-gamma_f * distance(i, j)) * clipped[j] for j in near[i]) for i in range(len(keys))
    ]
    return _greedy(spread, keys, near, lambda i, j: math.exp(-gamma_r * distance(i, j)))


def self_filter_order(rows: np.ndarray, keys: list[str], difficulty: list[float], k: int, gamma: float) -> list[str]:
    """Keys in the order that Self-Filter's second stage takes them."""
    near = neighbours(rows, keys, k)
    return _greedy(list(difficulty), keys, near, lambda i, j: gamma * cosine(rows[i], rows[j]) ** 2)
