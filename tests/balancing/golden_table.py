"""A score table whose contributions have the marginals that CoTBal publishes for its academic benchmark.

The paper gives C_out, C_in and V(mini) / V(full), not the table. Of the matrices with those row and column means the
one of the form a_i + b_j off the diagonal is taken. The published means of C_out and C_in differ in the fifth decimal,
which no matrix can have; C_in is shifted by the difference, which a softmax does not see.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

GOLDEN = json.loads((Path(__file__).parents[1] / "evaluation" / "golden" / "cotbal_academic_7b.json").read_text())


def matrix_with_means(out_N: np.ndarray, in_N: np.ndarray) -> np.ndarray:
    """Return C with ones on the diagonal, `out_N` as means of its rows and `in_N` of its columns, diagonal left out."""
    count = len(out_N)
    in_N = in_N + (out_N.mean() - in_N.mean())
    others = (1 - np.eye(count)) / (count - 1)
    system = np.block([[np.eye(count), others], [others, np.eye(count)]])
    a_and_b, *_ = np.linalg.lstsq(system, np.concatenate([out_N, in_N]), rcond=None)
    matrix = a_and_b[:count, None] + a_and_b[None, count:]
    np.fill_diagonal(matrix, 1)
    return matrix


def golden_csv(full: float = 61.7) -> str:
    """Return the table as CSV; `full` is the score of each task under its own probe times its place."""
    matrix = matrix_with_means(np.array(GOLDEN["contribution_out"]), np.array(GOLDEN["contribution_in"]))
    tasks = GOLDEN["tasks"]
    full_N = full * np.arange(1, len(tasks) + 1)
    mini_N = np.array(GOLDEN["validation_ratio_mini_over_full"]) * full_N
    rows = {"mini": mini_N}
    rows.update({task: mini_N + row * (full_N - mini_N) for task, row in zip(tasks, matrix, strict=True)})
    lines = [",".join(["probe", *tasks])]
    lines += [",".join([name, *(repr(float(value)) for value in values)]) for name, values in rows.items()]
    return "\n".join(lines) + "\n"
