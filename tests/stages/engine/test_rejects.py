"""What a stage says of many rejected rows: a warning, an error, and how to allow them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raycurate.errors import UserError
from raycurate.run.store import Noun, Run
from raycurate.samples.schema import QUARANTINE_SCHEMA, ImageRef, Message, Sample, samples_to_table
from raycurate.stages.engine.rejects import check_rejects, check_some_good


def _sample(number: int, image: bool) -> Sample:
    turns = (Message("user", f"q {number}"), Message("assistant", "a"))
    return Sample(turns, (ImageRef(f"{number}.png"),) if image else (), source_file="rows.json", source_row=number)


def _rejects(samples: list[Sample], reason: str) -> pa.Table:
    rows = [
        {
            "key": sample.key,
            "source_id": None,
            "source_file": sample.source_file,
            "source_row": sample.source_row,
            "reason": reason,
            "detail": f"row {sample.source_row} is bad",
            "excerpt": "",
        }
        for sample in samples
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def _nouns(tmp_path, rows: int, bad: set[int], images: set[int] = frozenset()) -> tuple[Noun, Noun]:
    """Samples in two parts, those of `images` with one, and a noun made from all but the `bad` ones."""
    run = Run(str(tmp_path))
    samples, made = run.noun("samples"), run.noun("features")
    for noun in (samples, made):
        noun.begin({"stage": noun.noun})
    for shard in (0, 1):
        part = [_sample(i, i in images) for i in range(shard, rows, 2)]
        samples.commit_part(shard, samples_to_table(part), rows_in=len(part))
        good = [sample for sample in part if sample.source_row not in bad]
        rejects = _rejects([sample for sample in part if sample.source_row in bad], "special_token_in_text")
        table = pa.table({"key": pa.array([sample.key for sample in good], pa.string())})
        made.commit_part(shard, table, rows_in=len(part), rejects=rejects)
    return samples, made


def test_a_few_rejects_are_not_mentioned(tmp_path, caplog):
    """Five rows of a hundred: nothing; six: a warning with the reason and where to look."""
    samples, made = _nouns(tmp_path / "few", 100, set(range(5)))
    check_rejects("extract", made, 0.5, samples=samples)
    assert not caplog.records
    samples, made = _nouns(tmp_path / "more", 100, set(range(6)))
    check_rejects("extract", made, 0.5, samples=samples)
    assert "extract: 6 % of the rows were rejected (special_token_in_text 6)" in caplog.text
    assert made.quarantine_folder in caplog.text


def test_more_than_the_allowed_share_is_an_error(tmp_path, caplog):
    """It has the counts, one example, the folder and the way out; exactly the share that is allowed is no error."""
    samples, made = _nouns(tmp_path, 10, set(range(6)))
    with pytest.raises(UserError, match=r"extract: 6 of 10 rows.*special_token_in_text 6") as caught:
        check_rejects("extract", made, 0.5, samples=samples)
    for part in ("rows.json, row 0: row 0 is bad", made.quarantine_folder, "--set max_rejected=1"):
        assert part in str(caught.value)
    assert made.missing(2) == []  # what was made is still there
    check_rejects("extract", made, 0.6, samples=samples)
    check_rejects("extract", made, 1.0, samples=samples)
    assert caplog.text.count("60 % of the rows were rejected") == 2


def test_a_share_below_what_is_worth_a_warning_is_an_error_where_less_is_allowed(tmp_path):
    """Three rows of a hundred, where 1 % or none may go; where three may, nothing."""
    samples, made = _nouns(tmp_path, 100, {0, 1, 2})
    for allowed in (0.01, 0.0):
        with pytest.raises(UserError, match="3 of 100 rows were rejected"):
            check_rejects("extract", made, allowed, samples=samples)
    check_rejects("extract", made, 0.03, samples=samples)


def test_a_coreset_of_the_text_only_rows_is_an_error(tmp_path):
    """Four rows of ten have an image and all four are rejected: the share is below the bound, what is left is another
    data set. One of them left, or text-only rows rejected beside them, is a warning only.
    """
    samples, made = _nouns(tmp_path / "all", 10, {0, 1, 2, 3}, {0, 1, 2, 3})
    with pytest.raises(UserError, match="all rows with an image among them"):
        check_rejects("extract", made, 0.5, samples=samples)
    check_rejects("extract", made, 1.0, samples=samples)
    for name, bad, images in (("one left", {0, 1, 2}, {0, 1, 2, 3}), ("texts", {4, 5}, set())):
        samples, made = _nouns(tmp_path / name, 10, bad, images)
        check_rejects("extract", made, 0.5, samples=samples)


def test_samples_without_any_image_left_are_an_error(tmp_path):
    """A wrong image root rejects every row with an image of a source that is mostly text."""
    samples = Run(str(tmp_path)).noun("samples")
    samples.begin({"stage": "ingest"})
    part = [_sample(i, image=False) for i in range(8)]
    rejects = _rejects([_sample(8, image=True)], "image_missing")
    samples.commit_part(0, samples_to_table(part), rows_in=9, rejects=rejects)
    with pytest.raises(UserError, match="all rows with an image among them"):
        check_rejects("ingest", samples, 0.5)


def test_nothing_left_is_an_error_whatever_is_allowed(tmp_path):
    """A noun without a row serves nobody."""
    samples, made = _nouns(tmp_path, 4, set(range(4)))
    with pytest.raises(UserError, match="4 of 4 rows were rejected"):
        check_rejects("extract", made, 1.0, samples=samples)


def test_a_whole_bad_shard_ends_the_stage_at_once_where_it_is_a_large_one():
    """One bad row that is a shard of its own ends nothing."""
    rejects = _rejects([_sample(i, image=False) for i in range(300)], "overlong")
    with pytest.raises(UserError, match=r"every one of the 300 rows of shard 7.*'overlong': row 0 is bad"):
        check_some_good(7, 300, rejects, 0.5)
    check_some_good(7, 300, rejects, 1.0)
    check_some_good(7, 301, rejects, 0.5)
    check_some_good(7, 1, rejects.slice(0, 1), 0.5)
