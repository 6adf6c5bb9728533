"""The answers of a scored model as rows, for what compares runs question by question (`evaluation/evidence.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

ANSWER_COLUMNS = ["key", "turn", "task", "image", "references", "scores"]
"""Of a part of ``scores``: the question, what is right, and the numbers of the answer."""


def answer_rows(parts: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    """The rows of tables with `ANSWER_COLUMNS`, their scores by name."""
    for part in parts:
        for row in part.to_pylist():
            yield {**row, "scores": dict(row["scores"])}
