"""Run batches through a model and lose no row: halve what does not fit, name the rows that fail alone.

Out-of-memory on a GPU or a CPU splits the batch in halves, and batches of that size are split at once from then on. A
row that fails alone is returned as failed with its reason. If the first 8 rows all fail, the model and the settings do
not fit each other and the error is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch

OUT_OF_MEMORY = "out_of_memory"
FORWARD_ERROR = "forward_error"
_PATIENCE = 8

Columns = dict[str, np.ndarray]
Forward = Callable[["PreparedBatch"], tuple[Columns, list[str | None]]]


@dataclass(frozen=True, eq=False)
class RowResults:
    """Numbers of a batch in its row order: arrays [n, ...] by name (zero where a row failed), a reason or None."""

    columns: Columns
    reasons: tuple[str | None, ...]
    details: tuple[str | None, ...]


class SurvivingPass:
    """Calls `forward` on batches, or on parts of them, until every row has a result or a reason."""

    def __init__(
        self, forward: Forward, shapes: Mapping[str, tuple[tuple[int, ...], Any]], device: torch.device
    ) -> None:
        """`shapes` has the shape of one row and the dtype of each array that `forward` returns."""
        self._forward, self._shapes, self._device = forward, shapes, device
        self._max_tokens: int | None = None
        self._succeeded = False
        self._failures = 0

    def __call__(self, batch: PreparedBatch) -> RowResults:
        """Results of every row of `batch`.

        Raises:
            Exception: the model's own error, if the first 8 rows all fail alone.
        """
        rows = batch.num_rows
        columns = {name: np.zeros((rows, *shape), dtype=dtype) for name, (shape, dtype) in self._shapes.items()}
        reasons: list[str | None] = [None] * rows
        details: list[str | None] = [None] * rows
        pending = [(0, rows)]
        while pending:
            start, stop = pending.pop()
            part = batch if stop - start == rows else batch.take(start, stop)
            if self._is_too_large(part):
                pending += _halves(start, stop)
                continue
            result = self._try_forward(part)
            if not isinstance(result, Exception):
                found, reasons[start:stop] = result
                for name, values in found.items():
                    columns[name][start:stop] = values
                self._succeeded = True
                continue
            if stop - start > 1:
                pending += _halves(start, stop)
                continue
            self._failures += 1
            if self._failures >= _PATIENCE and not self._succeeded:
                raise result
            reasons[start] = OUT_OF_MEMORY if is_out_of_memory(result) else FORWARD_ERROR
            details[start] = f"{type(result).__name__}: {' '.join(str(result).split())[:300]}"
        return RowResults(columns, tuple(reasons), tuple(details))

    def _is_too_large(self, part: PreparedBatch) -> bool:
        return self._max_tokens is not None and part.num_rows > 1 and part.num_tokens >= self._max_tokens

    def _try_forward(self, part: PreparedBatch) -> tuple[Columns, list[str | None]] | Exception:
        """Numbers and reasons, or the error; memory of a failed pass is free again on return."""
        try:
            return self._forward(part)
        except (RuntimeError, ValueError, IndexError, StopIteration, TypeError) as error:
            if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
                raise  # the device is lost; no smaller batch will help
            error.__traceback__ = None  # frames hold the activations of the failed pass
            failure: Exception = error
        if is_out_of_memory(failure):
            if part.num_rows > 1:
                self._max_tokens = min(self._max_tokens or part.num_tokens, part.num_tokens)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return failure


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    """Two halves of a range of rows, the first one last: a stack gives it out first."""
    middle = (start + stop) // 2
    return [(middle, stop), (start, middle)]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
