"""Float16 rows that are read many times, partly in memory, the rest in a raw file on the node's disk.

k-means reads every row once per iteration: ``pread`` of raw bytes from the page cache runs at 4 GB/s (measured), an
object store at a fraction of that, and the rows of a projection or a sample lie nowhere else. So the first pass keeps
as many rows as a memory budget allows (on the device that computes) and appends the others to a scratch file, which
later passes read with ``pread`` into reused buffers, a block ahead of the arithmetic. The file is unlinked as soon as
it is open: it vanishes with the process, however that ends.

Memory: the budget and two blocks. Disk: 2 D bytes for each row outside the budget.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from raycurate.errors import UserError


class LocalRows:
    """A ``RowSource`` that is filled once by ``append``."""

    def __init__(
        self, capacity: int, dim: int, *, cache_bytes: int, device: torch.device, folder: str | None = None
    ) -> None:
        self.dim, self.device, self.folder = dim, device, folder
        self.num_rows = 0
        self.largest = 0.0
        cached = min(capacity, cache_bytes // (2 * dim))
        self.cache_CD = torch.empty((cached, dim), dtype=torch.float16, device=device)
        self._file: int | None = None

    def append(self, rows_ND: torch.Tensor, largest: float) -> None:
        """Add rows from any device; ``largest`` bounds the magnitude of their entries."""
        self.largest = max(self.largest, largest)
        room = max(0, len(self.cache_CD) - self.num_rows)
        if room:
            kept = rows_ND[:room]
            self.cache_CD[self.num_rows : self.num_rows + len(kept)].copy_(kept)
        if len(rows_ND) > room:
            self._write(rows_ND[room:].contiguous().cpu().numpy())
        self.num_rows += len(rows_ND)

    def blocks(self, max_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, float16 [n, D]); a block from the file is overwritten two blocks later."""
        cached = min(self.num_rows, len(self.cache_CD))
        for start in range(0, cached, max_rows):
            yield start, self.cache_CD[start : min(start + max_rows, cached)]
        starts = list(range(cached, self.num_rows, max_rows))
        if starts:
            yield from self._file_blocks(starts, max_rows)

    def take(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Rows by number, in the order asked for, on the device."""
        out_MD = torch.empty((len(rows), self.dim), dtype=torch.float16)
        cached = min(self.num_rows, len(self.cache_CD))
        inside = np.flatnonzero(rows < cached)
        at = torch.from_numpy(rows[inside]).to(self.device)
        out_MD[torch.from_numpy(inside)] = self.cache_CD.index_select(0, at).cpu()
        for position in np.flatnonzero(rows >= cached).tolist():
            self._read(int(rows[position]), out_MD.numpy()[position : position + 1])
        return out_MD.to(self.device)

    def close(self) -> None:
        """Give the memory and the disk back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self.cache_CD = self.cache_CD[:0].clone()
        self.num_rows = 0

    def _file_blocks(self, starts: list[int], max_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        buffers = [np.empty((max_rows, self.dim), dtype=np.float16) for _ in range(2)]

        def load(number: int) -> NDArray[np.float16]:
            count = min(max_rows, self.num_rows - starts[number])
            return self._read(starts[number], buffers[number % 2][:count])

        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(load, 0)
            for number, start in enumerate(starts):
                block = upcoming.result()
                if number + 1 < len(starts):
                    upcoming = ahead.submit(load, number + 1)
                yield start, torch.from_numpy(block).to(self.device)

    def _write(self, rows_ND: NDArray[np.float16]) -> None:
        if self._file is None:
            self._file, path = tempfile.mkstemp(prefix="raycurate-rows-", dir=self.folder)
            os.unlink(path)
        offset = (max(self.num_rows, len(self.cache_CD)) - len(self.cache_CD)) * 2 * self.dim
        data = rows_ND.view(np.uint8).reshape(-1).data
        while data:
            try:
                written = os.pwrite(self._file, data, offset)
            except OSError as error:
                raise UserError(
                    f"cannot write {rows_ND.nbytes / 1e9:.2f} GB of feature rows to the local scratch folder "
                    f"{self.folder or tempfile.gettempdir()}: {error.strerror}. Set cluster.scratch to a folder with "
                    "more room, raise cluster.cache_gb, use more workers, or set cluster.project."
                ) from None
            data, offset = data[written:], offset + written

    def _read(self, row: int, out_ND: NDArray[np.float16]) -> NDArray[np.float16]:
        assert self._file is not None, "the scratch file is closed"
        data = out_ND.view(np.uint8).reshape(-1).data
        offset = (row - len(self.cache_CD)) * 2 * self.dim
        while data:
            count = os.preadv(self._file, [data], offset)
            assert count > 0, "the scratch file is shorter than the rows written to it"
            data, offset = data[count:], offset + count
        return out_ND
