"""Finding rows in JSON text: exact for any text, chunk size and slice size."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.samples.split import ArrayFinder, NewlineFinder, plan, read_chunks, split_rows

TEXT = st.text(alphabet=st.sampled_from('ab"\\[]{},:\n \u00e9\U0001f600/'), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(JSON, min_size=1, max_size=12), chunk=st.integers(1, 40), indent=st.sampled_from([None, 1]))
def test_array_elements_are_found_for_any_chunking(rows, chunk, indent):
    """Brackets, quotes, backslashes and commas inside strings never split a row, wherever a chunk ends."""
    data = json.dumps(rows, ensure_ascii=False, indent=indent).encode()[1:]
    chunks = read_chunks(io.BytesIO(data), 0, None, chunk)
    assert [json.loads(row) for row in split_rows(chunks, ArrayFinder(), 1 << 20)] == rows


@given(
    rows=st.lists(JSON, min_size=1, max_size=20),
    chunk=st.integers(1, 60),
    slice_rows=st.integers(1, 25),
    slice_bytes=st.sampled_from([1, 10, 50, 1 << 20]),
    lines=st.booleans(),
)
def test_cuts_cover_every_row_once_and_do_not_depend_on_chunks(rows, chunk, slice_rows, slice_bytes, lines):
    """Every row is in exactly one cut, with its right number, for any slice size."""
    separator = "\n" if lines else ","
    data = separator.join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + (b"" if lines else b"]")

    def cuts_of(size):
        finder = NewlineFinder() if lines else ArrayFinder()
        chunks = read_chunks(io.BytesIO(data), 0, None, size)
        return list(plan(chunks, finder, start=0, slice_rows=slice_rows, slice_bytes=slice_bytes))

    cuts = cuts_of(chunk)
    assert cuts == cuts_of(1 << 20)
    found = []
    for cut in cuts:
        assert cut.first_row == len(found)
        finder = NewlineFinder() if lines else ArrayFinder()
        parts = list(split_rows(read_chunks(io.BytesIO(data), cut.start, cut.stop, chunk), finder, 1 << 20))
        assert len(parts) == cut.num_rows <= slice_rows
        found += [json.loads(part) for part in parts]
    assert found == rows


@given(backslashes=st.integers(0, 9), chunk=st.integers(1, 5))
def test_backslash_runs_across_chunks(backslashes, chunk):
    """A quote behind an odd run of backslashes does not end the string, also where the run is cut by a chunk."""
    rows = ["\\" * backslashes + '"],[', 1]
    data = json.dumps(rows).encode()[1:]
    chunks = read_chunks(io.BytesIO(data), 0, None, chunk)
    assert [json.loads(row) for row in split_rows(chunks, ArrayFinder(), 1 << 20)] == rows


@pytest.mark.parametrize("chunk", [3, 64, 4096])
def test_a_row_beyond_the_limit_is_none_and_the_next_one_is_whole(chunk):
    """A too long row is skipped without being held; its neighbours are untouched."""
    lines = [b'{"a":1}', b'"' + b"x" * 5000 + b'"', b'{"b":2}']
    chunks = read_chunks(io.BytesIO(b"\n".join(lines)), 0, None, chunk)
    assert list(split_rows(chunks, NewlineFinder(), 100)) == [lines[0], None, lines[2]]
