"""Tests of raycurate.clustering.local_rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycurate.clustering import local_rows
from raycurate.clustering.local_rows import LocalRows
from raycurate.errors import UserError
from tests.clustering.clustering_cases import mixture

CPU = torch.device("cpu")


@pytest.mark.parametrize("cached", [0, 1, 40, 100, 500])
@pytest.mark.parametrize("max_rows", [1, 33, 1000])
def test_rows_come_back_in_order_from_memory_and_file(cached, max_rows, tmp_path):
    """All rows in memory, none, and some: the same blocks of rows."""
    rows = mixture(100, 12, 3)
    source = LocalRows(100, 12, cache_bytes=cached * 24, device=CPU, folder=str(tmp_path))
    for part in rows.split(30):
        source.append(part, 0.5)
    read = [(start, block.clone()) for start, block in source.blocks(max_rows)]
    assert torch.equal(torch.cat([block for _, block in read]), rows)
    assert [start for start, _ in read] == np.cumsum([0] + [len(b) for _, b in read])[:-1].tolist()
    assert all(len(block) <= max_rows for _, block in read)
    wanted = np.array([99, 0, 41, 41, 7])
    assert torch.equal(source.take(wanted), rows[wanted])
    assert source.largest == 0.5
    source.close()


def test_the_scratch_file_is_already_unlinked(tmp_path):
    """Nothing is left behind even by a killed process."""
    source = LocalRows(10, 4, cache_bytes=0, device=CPU, folder=str(tmp_path))
    source.append(mixture(10, 4, 2), 1.0)
    assert list(tmp_path.iterdir()) == []
    source.close()


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    """The message names the folder and the settings that help."""

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_rows.os, "pwrite", full)
    source = LocalRows(10, 4, cache_bytes=0, device=CPU, folder=str(tmp_path))
    with pytest.raises(UserError, match="cache_gb"):
        source.append(mixture(10, 4, 2), 1.0)
