"""The folder for FiftyOne has every image of every row, with what the selection says of the row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from raycurate.samples.exporters import ExportFacts, ExportOptions, samples_from_tables
from raycurate.samples.fiftyone import with_decisions
from raycurate.samples.images import ImageRoot
from raycurate.samples.schema import ImageRef, Message, Sample, samples_to_table
from raycurate.samples.task_folders import export_folder
from tests.hostile import encoded

EXTRAS = [{"size": 3, "score": 1, "mixed": 1}, {"size": 2.5, "marks": [1, 2], "mixed": "x", "a b.c": True}, None, None]


@pytest.fixture
def out(tmp_path):
    """A row of text, of one file, of two files, and of bytes; two are kept."""
    answer, data = Message("assistant", "\u00fc"), encoded()
    two = (ImageRef(path="2.png"), ImageRef(path="0.png"))
    turns = Message("user", "<image>a<image>"), Message("assistant", "x", False), answer
    rows = [
        Sample((Message("user", "q"), answer), task="chat"),
        Sample((Message("user", "<image>\nq"), answer), (ImageRef(path="1.png"),), task="ocr", source_id="one"),
        Sample(turns, two, task="ocr"),
        Sample((Message("system", "s"), Message("user", "<image>q"), answer), (ImageRef(data=data, sha="ab" * 16),)),
    ]
    for number in range(3):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
    table = samples_to_table(rows)
    extra = pa.array([None if each is None else json.dumps(each) for each in EXTRAS])
    table = table.set_column(table.schema.get_field_index("extra"), "extra", extra)
    facts = {"kept": [True, False, True, False], "cluster": [0, 1, None, 3], "rank": [0, 1, 0, None]}
    facts |= {"score": [0.5, float("nan"), 2.0, None], "reason": ["a", "b", "c", "d"]}
    shown = samples_from_tables([with_decisions(table, pa.table(facts))])
    options = ExportOptions(images=ImageRoot.of(str(tmp_path)))
    counts = export_folder(shown, str(tmp_path / "out"), "fiftyone", options, ExportFacts("runs/mine", "abc"))
    assert (counts.rows, counts.without_image) == (4, 1)
    return tmp_path / "out"


def documents(out: Path):
    return json.loads((out / "samples.json").read_text("utf-8"))["samples"]


def test_each_image_of_a_row_is_a_document(out):
    """By absolute paths, bytes inside the folder; the images of a row share its key and have their numbers."""
    found = documents(out)
    root = out.parent
    assert [each["filepath"] for each in found[:3]] == [str(root / f"{n}.png") for n in (1, 2, 0)]
    assert found[3]["filepath"].startswith(f"{out}/")
    assert Path(found[3]["filepath"]).read_bytes() == encoded()
    assert [each["image"] for each in found] == [0, 0, 1, 0]
    assert found[1]["key"] == found[2]["key"] != found[3]["key"]
    assert all(each["_media_type"] == "image" and 0 <= each["_rand"] < 1 and each["tags"] == [] for each in found)


def test_what_the_selection_says_is_there(out):
    """With rows that were not kept; a score that is none is null, never NaN."""
    found = documents(out)
    assert [each["kept"] for each in found] == [False, True, True, False]
    assert [each["cluster"] for each in found] == [1, None, None, 3]
    assert [each["rank"] for each in found] == [1, 0, 0, None]
    assert [each["score"] for each in found] == [None, 2.0, 2.0, None]
    assert [each["task"] for each in found] == ["ocr", "ocr", "ocr", "unknown"]
    assert found[0]["source_id"] == "one"
    assert (found[0]["question"], found[0]["answer"]) == ("q", "\u00fc")
    assert "assistant (context only): x" in found[1]["conversation"]


def test_fields_have_one_type_in_all_rows(out):
    """Ratings are apart from what the selection says; numbers are floats; a mixed column has no type."""
    fields = json.loads((out / "metadata.json").read_text("utf-8"))["sample_fields"]
    types = {each["name"]: each["ftype"].rpartition(".")[2] for each in fields}
    assert set().union(*documents(out)) - {"_media_type", "_rand"} <= types.keys()
    found = documents(out)[0]
    assert (found["rating_size"], found["rating_marks"], found["rating_a_b_c"]) == (2.5, [1.0, 2.0], True)
    assert types["rating_size"] == "FloatField"
    assert types["rating_marks"] == "ListField"
    assert types["rating_a_b_c"] == "BooleanField"
    assert types["cluster"] == types["rank"] == "IntField"
    assert next(each for each in fields if each["name"] == "rating_marks")["subfield"].endswith("FloatField")


def test_the_readme_opens_it(out):
    """With the folder's place, rows by task, and the rows that are not there."""
    text = (out / "README.md").read_text("utf-8")
    assert f'from_dir(dataset_dir="{out}", dataset_type=fo.types.FiftyOneDataset)' in text
    assert "| ocr | 2 |" in text
    assert "1 rows have no image" in text
    assert "drawn with" not in text
