"""The look at a dataset: rows, tasks, what cannot be read, and estimates where the files are large."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.init import look as module
from raycurate.init.choices import CARDS, Machine, choose
from raycurate.init.look import find_images, look_at
from tests.init.data import rows_of, write_data


def test_a_small_file_is_counted_and_its_images_are_found_beside_it(tmp_path):
    source = str(write_data(tmp_path, rows=30))
    look = look_at(IngestConfig(source=source))
    assert (look.rows, look.counted, look.usable, look.kind) == (30, True, 30, "JSON")
    assert look.tasks == {"a": 10, "b": 10, "c": 10}
    assert find_images(look, source, None) == (str(tmp_path), True)
    assert find_images(look, source, str(tmp_path / "images")) == (str(tmp_path / "images"), False)


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_rows_of_a_large_file_are_estimated_from_its_beginning(tmp_path, monkeypatch, name):
    """Within two hundredths, as first rows are a little shorter here. A row that is cut is not a broken one."""
    monkeypatch.setattr(module, "ALL_BYTES", 1000)
    monkeypatch.setattr(module, "HEAD_BYTES", 100_000)
    rows = rows_of(3000)
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    look = look_at(IngestConfig(source=str(tmp_path / name)))
    assert not look.counted
    assert look.rows == pytest.approx(3000, rel=0.02)
    assert look.parsed < 1000
    assert look.rejects == {}


def test_parquet_tells_its_rows_whatever_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ALL_BYTES", 10)
    table = pa.table({"question": ["a?", "b?"] * 40, "answer": ["yes", "no"] * 40})
    pq.write_table(table, tmp_path / "t.parquet")
    columns = {"question": "question", "answer": "answer"}
    look = look_at(IngestConfig(source=str(tmp_path / "t.parquet"), columns=columns))
    assert (look.rows, look.counted, look.kind) == (80, True, "Parquet")


def test_rows_that_cannot_be_used_are_taken_off_and_named(tmp_path):
    rows = rows_of(8)
    for row in rows[:2]:
        row["conversations"] = []
    (tmp_path / "t.json").write_text(json.dumps(rows))
    look = look_at(IngestConfig(source=str(tmp_path / "t.json")))
    assert (look.rows, look.usable, sum(look.rejects.values())) == (8, 6, 2)
    assert look.first_reject


def test_a_file_of_other_things_is_refused(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps([{"a": 1}] * 3))
    with pytest.raises(UserError, match="no row of the first 3"):
        look_at(IngestConfig(source=str(tmp_path / "t.json")))


def test_a_shipped_task_map_is_taken_where_no_row_says_its_task(tmp_path):
    rows = rows_of(4)
    for row in rows:
        del row["task"]
        row["image"] = "coco/train2017/000000000001.jpg"
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert look_at(IngestConfig(source=str(tmp_path / "t.json"))).task_map == "llava665k"


def test_clusters_follow_the_rows_and_batches_the_memory():
    """The paper's 10,000 for its 665,298 rows; no batch below the longest row."""
    assert choose(665_298, CARDS["aws"]).clusters == 10_000
    assert choose(30, CARDS["aws"]).clusters == 1
    assert [choose(1, Machine(gib << 30, "", True)).batch_tokens for gib in (1, 24, 80)] == [4096, 16_384, 65_536]
    assert choose(100, Machine(1 << 30, "", False)).model == "tiny"
    assert (choose(120_000, CARDS["gcp"]).actors, choose(10**9, CARDS["gcp"]).actors) == (3, 15)
