"""Windows are bounded in rows and in the bytes of their distinct images, and hold every row once."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.encoding.images import ImageReader
from raycurate.samples.schema import IMAGE_TYPE
from raycurate.stages.workers.windows import PROCESS_BYTES, loader_memory, windows_of
from tests.family_processors import make_processor

MB = 1 << 20


def _rows(shown: list[list[int]]) -> pa.Table:
    images = [[{"path": f"{i}.png", "data": None, "sha": None} for i in row] for row in shown]
    return pa.table({"images": pa.array(images, pa.list_(IMAGE_TYPE))})


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=30), st.integers(1, 8), st.integers(1, 6))
def test_every_row_is_in_one_window_within_both_bounds(shown, window_rows, most):
    windows = windows_of(_rows(shown), window_rows, MB, most)
    assert [row for start, stop in windows for row in range(start, stop)] == list(range(len(shown)))
    for start, stop in windows:
        assert stop - start <= window_rows
        distinct = {image for row in shown[start:stop] for image in row}
        assert len(distinct) <= most or stop - start == 1
        if stop < len(shown):  # none ends before it must
            fuller = distinct | set(shown[stop])
            assert stop - start == window_rows or len(fuller) > most


def test_a_slice_of_a_part_has_the_windows_of_its_own_rows():
    rows = _rows([[0], [1], [2], [3], [4]])
    assert windows_of(rows.slice(2), 10, MB, 2) == [(0, 2), (2, 3)]


@pytest.mark.parametrize(("family", "least_mb", "most_mb"), [("llava", 0.5, 2), ("llava_next", 6, 30)])
def test_what_an_image_takes_is_measured_on_the_processor(family, least_mb, most_mb):
    """One crop of 336 px, or tiles of it, in float32; a loader of tiles asks for the bound, one of crops for less."""
    found = ImageReader(make_processor(family, small=False), torch.float32).largest_bytes()
    assert least_mb * MB <= found <= most_mb * MB
    assert loader_memory(256, found, 512) == 2 * min(512 * MB, 4 * 256 * found) + PROCESS_BYTES
