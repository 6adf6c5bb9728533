"""ingest on a cluster: all good rows come through, every other row is counted, the order of the source is forgotten."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.run.filesystem import list_files
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.ingest import ingest
from tests.hostile import write_hostile_dataset
from tests.nouns import read_all


def _ingest(folder, source, images, **settings):
    run = Run(str(folder))
    values = {"source": str(source), "images": None if images is None else str(images), **settings}
    return run.noun("samples"), ingest(run, make_config(IngestConfig, values))


@pytest.mark.slow
def test_hostile_rows_are_counted_and_good_rows_survive(ray_cluster, tmp_path):
    """200 hostile rows among 5,000 good ones: nothing is lost, every reason is the expected one."""
    made = write_hostile_dataset(tmp_path / "data")
    assert made.num_hostile >= 200
    assert len(made.expected_reasons) >= 15
    assert made.num_good >= 4000
    noun, manifest = _ingest(tmp_path / "run", made.source, made.images, rows_per_shard=700, slice_rows=900)
    assert manifest.quarantined == made.expected_reasons
    assert set(read_all(noun)["key"].to_pylist()) == made.expected_keys
    assert manifest.rows_out == made.num_good
    assert manifest.rows_in == manifest.rows_out + made.num_hostile
    assert manifest.metrics["tasks"] == made.expected_tasks
    parts = list_files(noun.filesystem, noun.quarantine_folder, ".parquet")
    kept = Counter(r for part in parts for r in pq.read_table(part.path)["reason"].to_pylist())
    assert kept == made.expected_reasons


def _rows(count: int, tmp_path) -> list[dict]:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(10):
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(images / f"{i}.png")
    rows = []
    for i in range(count):
        turns = [{"from": "human", "value": f"<image>\nq {i % 37}"}, {"from": "gpt", "value": f"a {i % 5}"}]
        rows.append({"id": i, "image": f"{i % 10}.png", "conversations": turns, "task": f"t{i % 3}"})
    return rows


def test_many_rejects_are_warned_of(ray_cluster, tmp_path, caplog):
    """One bad row of ten is said with its reason and where to look; a clean source is not mentioned."""
    rows = _rows(10, tmp_path)
    for name, last in (("clean", rows[9]), ("bad", {**rows[9], "image": "nowhere.png"})):
        caplog.clear()
        (tmp_path / f"{name}.json").write_text(json.dumps([*rows[:9], last]))
        _ingest(tmp_path / name, tmp_path / f"{name}.json", tmp_path / "images")
        assert ("10 % of the rows were rejected (image_missing 1)" in caplog.text) == (name == "bad")


def test_input_shards_and_order_do_not_matter(ray_cluster, tmp_path):
    """One file, seven files, or the rows reversed: the same keys in the same parts, of equal rows of two tasks too."""
    rows = _rows(300, tmp_path)
    rows += [{**row, "id": f"again {i}", "task": f"t{(i + 1) % 3}"} for i, row in enumerate(rows[:20])]
    tables = []
    for name, pieces in (("one", [rows]), ("seven", [rows[i::7] for i in range(7)]), ("back", [rows[::-1]])):
        source = tmp_path / name
        source.mkdir()
        for number, piece in enumerate(pieces):
            (source / f"{number}.json").write_text(json.dumps(piece), encoding="utf-8")
        noun, manifest = _ingest(
            tmp_path / f"run-{name}", source, tmp_path / "images", rows_per_shard=64, slice_rows=50
        )
        assert manifest.shards > 1
        tables.append([part.select(["key", "source_id", "task", "messages"]) for part in noun.iter_parts()])
    assert all(a.equals(b) for a, b in zip(tables[0], tables[1], strict=True))
    assert all(a.equals(b) for a, b in zip(tables[0], tables[2], strict=True))


def test_halves_by_image_are_disjoint_and_together_the_whole(ray_cluster, tmp_path):
    """A hash range keeps all rows of an image or none; what it leaves out is counted, what is broken is in both."""
    broken = {"id": "broken", "image": "0.png", "conversations": []}
    source = tmp_path / "rows.json"
    source.write_text(json.dumps([*_rows(200, tmp_path), broken]), encoding="utf-8")
    images, keys = [], []
    for name, settings in (("low", [0, 0.5]), ("high", [0.5, 1]), ("all", None)):
        noun, manifest = _ingest(tmp_path / name, source, tmp_path / "images", hash_range=settings)
        assert manifest.rows_in + manifest.metrics.get("out_of_range", 0) == 201
        assert manifest.rows_in == manifest.rows_out + 1
        rows = read_all(noun).to_pylist()
        images.append({row["images"][0]["path"] for row in rows})
        keys.append({row["key"] for row in rows})
    assert images[0]
    assert images[1]
    assert images[0] | images[1] == images[2]
    assert not images[0] & images[1]
    assert sorted([*keys[0], *keys[1]]) == sorted(keys[2])


@pytest.mark.parametrize("bounds", [[0.5, 0.5], [-0.1, 0.5], [0.5, 1.1]])
def test_a_hash_range_outside_of_the_unit_interval_is_refused(bounds):
    """Before anything is read."""
    with pytest.raises(UserError, match="must ascend within"):
        make_config(IngestConfig, {"source": "rows.json", "hash_range": bounds})


def test_duplicates_are_numbered_and_images_stay_together(ray_cluster, tmp_path):
    """Exact duplicates differ in their occurrence only; rows of one image are neighbours."""
    rows = _rows(40, tmp_path) * 3
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    noun, manifest = _ingest(tmp_path / "run", source, tmp_path / "images", rows_per_shard=16)
    table = read_all(noun)
    keys = table["key"].to_pylist()
    assert len(set(keys)) == len(keys) == 120
    occurrences = Counter(key.split("-")[0] for key in keys)
    assert all(f"{content}-{n}" in set(keys) for content, count in occurrences.items() for n in range(count))
    shown = [images[0]["path"] for images in table["images"].to_pylist()]
    changes = sum(a != b for a, b in zip(shown, shown[1:], strict=False))
    assert changes == len(set(shown)) - 1
    assert manifest.quarantined == {}


def test_strict_stops_at_the_first_reject(ray_cluster, tmp_path):
    """With --strict a bad row is an error that names the row."""
    rows = _rows(5, tmp_path)
    rows[3]["conversations"][1]["value"] = ""
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match="rows.json, row 3: empty_turn"):
        _ingest(tmp_path / "run", source, tmp_path / "images", strict=True)


def test_a_source_without_a_good_row_fails_with_the_reasons(ray_cluster, tmp_path):
    """A wrong image root is an error that says so, not an empty dataset."""
    rows = _rows(5, tmp_path)
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"image_missing.*--images"):
        _ingest(tmp_path / "run", source, tmp_path / "empty")


def _rows_file(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_a_source_of_another_kind_ends_at_its_first_thousand_rows(ray_cluster, tmp_path):
    """Not after the last one; the columns that are there are named, and rows after good ones are counted as ever."""
    rows = [{"ask": f"q {i}", "reply": "a"} for i in range(3000)]
    source = _rows_file(tmp_path / "rows.jsonl", rows)
    run = Run(str(tmp_path / "run"))
    config = {"source": source, "slice_rows": 1000, "max_tasks": 1}
    with pytest.raises(UserError, match=r"all of the first 1,000 rows.*'missing_conversations'.*it has ask, reply"):
        ingest(run, make_config(IngestConfig, config))


def test_columns_that_no_rule_reads_and_further_files_are_named_once(ray_cluster, tmp_path, caplog):
    """Of lines and of Parquet alike; in the log and in the manifest."""
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "speaker": "x"}]
    folder = tmp_path / "data"
    folder.mkdir()
    _rows_file(folder / "train.jsonl", [{"conversations": turns, "caption": f"c{i}", "rating": i} for i in range(20)])
    _rows_file(folder / "test.jsonl", [{"conversations": turns, "caption": None}])
    (folder / "more.jsonl.xz").write_bytes(b"x")
    made = ingest(Run(str(tmp_path / "run")), make_config(IngestConfig, {"source": str(folder)}))
    assert made.metrics["not_read"] == {"caption": 20, "conversations[].speaker": 21}
    assert made.metrics["kept_columns"] == {"rating": "number"}
    told = [record.getMessage() for record in caplog.records]
    for line in ("not read: caption in 20 rows", "not read: more.jsonl.xz", "several splits"):
        assert sum(line in text for text in told) == 1, line
    pq.write_table(pa.table({"conversations": [turns], "caption": ["c"]}), tmp_path / "rows.parquet")
    source = str(tmp_path / "rows.parquet")
    made = ingest(Run(str(tmp_path / "other")), make_config(IngestConfig, {"source": source}))
    assert made.metrics["not_read"]["caption"] == 1


def test_a_touched_source_is_the_same_and_one_other_byte_is_not(ray_cluster, tmp_path, caplog):
    """The source is known by its content: its times decide nothing."""
    rows = [{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": f"a{i}"}]} for i in range(20)]
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    noun, first = _ingest(tmp_path / "run", source, None)
    os.utime(source, (1, 1))
    assert _ingest(tmp_path / "run", source, None)[1].created == first.created
    status = source.stat()
    source.write_text(source.read_text("utf-8").replace("a7", "b7"), encoding="utf-8")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    _, second = _ingest(tmp_path / "run", source, None)
    assert second.fingerprint != first.fingerprint
    assert "the source files have changed" in caplog.text
    assert any("b7" in str(messages) for messages in read_all(noun)["messages"].to_pylist())
