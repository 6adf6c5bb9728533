"""A shard's rows in Arrow: duplicates are numbered, and each distinct image is one whatever shows it."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raycurate.samples.quarantine import Fault, Reason
from raycurate.samples.schema import SAMPLE_SCHEMA, ImageRef, Message, Sample, sample_to_row, samples_to_table
from raycurate.samples.shard import ShownImages, number_duplicates

REFS = (ImageRef(path="a"), ImageRef(path="b"), ImageRef(path="sha:0"), ImageRef(data=b"x", sha="0", path="a"))
ROWS = st.lists(
    st.tuples(st.sampled_from("pqr"), st.lists(st.sampled_from(REFS), max_size=3), st.booleans()), max_size=20
)


def _samples(rows):
    return [
        Sample(
            messages=(Message("user", text), Message("assistant", "answer é"), Message("assistant", "b", train)),
            images=tuple(images),
            source_id=None if train else text,
            source_row=number,
            occurrence=0,
        )
        for number, (text, images, train) in enumerate(rows)
    ]


@given(ROWS)
def test_columns_are_those_of_the_rows_one_by_one(rows):
    """The table made column by column is the one made of dictionaries."""
    samples = _samples(rows)
    expected = pa.Table.from_pylist([sample_to_row(sample) for sample in samples], schema=SAMPLE_SCHEMA)
    assert samples_to_table(samples).equals(expected)


@given(ROWS)
def test_equal_rows_are_numbered_in_their_order(rows):
    """Keys end with how many equal rows came before."""
    samples = sorted(_samples(rows), key=lambda sample: sample.content_hash)
    seen: dict[str, int] = {}
    expected = []
    for sample in samples:
        expected.append(f"{sample.content_hash}-{seen.get(sample.content_hash, 0)}")
        seen[sample.content_hash] = seen.get(sample.content_hash, 0) + 1
    assert number_duplicates(samples_to_table(samples))["key"].to_pylist() == expected


@given(ROWS, st.sets(st.sampled_from([ref.identity for ref in REFS])), st.integers(0, 3))
def test_rows_that_show_a_faulty_image_are_refused_for_their_first_one(rows, faulty, cut):
    """Also of a table that is a part of another: the others stay as they are, every row once."""
    whole = samples_to_table(_samples(rows))
    table, samples = whole.slice(cut), _samples(rows)[cut:]
    shown = ShownImages(table)
    distinct = list(dict.fromkeys(image.identity for sample in samples for image in sample.images))
    assert [shown.ref(image).identity for image in range(len(shown))] == distinct
    assert shown.paths() == [name.removeprefix("path:") for name in distinct if name.startswith("path:")]
    faults = {i: Fault(Reason.IMAGE_CORRUPT, name) for i, name in enumerate(distinct) if name in faulty}
    good, rejects = shown.split(table, faults)
    first = [(s, [i.identity for i in s.images if i.identity in faulty]) for s in samples]
    assert [(r.source_row, r.detail, r.key) for r in rejects] == [
        (sample.source_row, bad[0], sample.key) for sample, bad in first if bad
    ]
    assert good.equals(table.filter(pa.array([not bad for _, bad in first], pa.bool_())))
