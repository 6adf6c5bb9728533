"""An exported folder has every row in the part of its task, the weights in its trainer's words, and nothing else."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image

from raycurate.errors import UserError
from raycurate.run.names import as_label
from raycurate.samples.exporters import ExportFacts, ExportOptions
from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.readers import open_source
from raycurate.samples.schema import ImageRef, Message, Sample
from raycurate.samples.task_folders import CARD, TASK_FOLDERS, export_folder, probabilities
from tests.hostile import encoded

TASKS = ("vqa", "ocr/é 1", None)
WEIGHTS = {"vqa": 0.5, "ocr/é 1": 2.0, "unknown": 1.0}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 6), (number * 60, 9, 9)).save(folder / f"{number}.png")
    return ExportOptions(images=ImageRoot.of(str(folder)))


@pytest.fixture
def samples():
    """Text alone, one image, two images in their order, bytes, a system turn, several turns, an empty task."""
    two = (ImageRef(path="2.png"), ImageRef(path="0.png"))
    asked, answer = Message("user", "<image>\nq"), Message("assistant", "ü")
    return [
        Sample((Message("system", "s"), Message("user", "q"), answer, Message("user", "r"), answer), task=TASKS[0]),
        Sample((asked, answer), (ImageRef(path="1.png"),), task=TASKS[1]),
        Sample((Message("user", "<image> or <image>"), answer), two, task=TASKS[1], source_id="two"),
        Sample((asked, answer), (ImageRef(data=encoded(), sha="ab" * 16),), task=TASKS[1]),
        *(Sample((Message("user", f"q{number}"), answer), task=TASKS[2]) for number in range(3)),
    ]


def export(samples, out, name, options, weights=None):
    return export_folder(samples, str(out), name, options, ExportFacts("runs/mine", "abc", weights))


def read_again(path, root=None, *links):
    reader, options = open_source(str(path)), ParseOptions(image_root=root, image_links=links)
    return [parse_row(raw, options) for part in reader.slices() for raw in reader.read(part)]


@pytest.mark.parametrize("name", TASK_FOLDERS)
def test_every_row_is_in_the_part_of_its_task(name, samples, pictures, tmp_path):
    """With its turns, and as many images; read by this package's own readers."""
    assert export(samples, tmp_path / "out", name, pictures).rows == len(samples)
    for task in TASKS:
        of_task = [sample for sample in samples if sample.task == task]
        part = tmp_path / "out" / as_label(task or "unknown")
        place = part if name == "webdataset" else part.with_suffix(".jsonl")
        again = read_again(place, str(tmp_path / "pictures"), str(tmp_path / "out"))
        assert [item.messages for item in again] == [sample.messages for sample in of_task]
        assert [len(item.images) for item in again] == [len(sample.images) for sample in of_task]


def test_images_of_tars_are_the_files_in_their_order(samples, pictures, tmp_path):
    """Each member has the bytes of its file."""
    export(samples, tmp_path / "out", "webdataset", pictures)
    two = read_again(tmp_path / "out" / as_label(TASKS[1]))[1]
    assert [image.data for image in two.images] == [(tmp_path / "pictures" / f"{n}.png").read_bytes() for n in (2, 0)]


def test_images_of_lines_are_found_from_anywhere(samples, pictures, tmp_path):
    """By absolute paths, also bytes, which are files inside the folder; from there where there are no others."""
    export(samples, tmp_path / "out", "llamafactory", pictures)
    rows = [json.loads(line) for line in (tmp_path / "out" / f"{as_label(TASKS[1])}.jsonl").read_text().splitlines()]
    assert rows[1]["images"] == [str(tmp_path / "pictures" / f"{n}.png") for n in (2, 0)]
    inside = Path(rows[2]["images"][0])
    assert inside.is_relative_to(tmp_path / "out")
    assert inside.read_bytes() == encoded()
    export([samples[3]], tmp_path / "out", "llamafactory", ExportOptions())
    alone = json.loads((tmp_path / "out" / f"{as_label(TASKS[1])}.jsonl").read_text())["images"]
    assert alone == [str(inside.relative_to(tmp_path / "out"))]


def test_many_rows_are_several_tars(monkeypatch, samples, pictures, tmp_path):
    """Each one whole, rows in their order."""
    monkeypatch.setattr("raycurate.samples.task_folders.SHARD_ROWS", 2)
    export(samples, tmp_path / "out", "webdataset", pictures)
    assert [path.name for path in sorted((tmp_path / "out" / "unknown").iterdir())] == [
        "shard-000000.tar",
        "shard-000001.tar",
    ]
    assert [item.messages[0].text for item in read_again(tmp_path / "out" / "unknown")] == ["q0", "q1", "q2"]


def test_tasks_are_drawn_by_rows_and_weights():
    """Rows times weight, over their sum; without weights by rows; the parts add up to 1 exactly."""
    tasks = {"a": 10, "b": 30, "c": 7}
    assert probabilities(tasks, None) == pytest.approx({"a": 10 / 47, "b": 30 / 47, "c": 7 / 47})
    drawn = probabilities(tasks, {"a": 3.0, "b": 0.5, "c": 1.0})
    assert drawn == pytest.approx({"a": 30 / 52, "b": 15 / 52, "c": 7 / 52})
    assert sum(drawn.values()) == 1.0
    with pytest.raises(UserError, match="no weight for the tasks b, c"):
        probabilities(tasks, {"a": 1.0})


def test_each_trainer_gets_the_weights_in_its_own_way(samples, pictures, tmp_path):
    """LLaMA-Factory's and ms-swift's lines of the README, Energon's blend, all with the same numbers."""
    drawn = probabilities(Counter(sample.task or "unknown" for sample in samples), WEIGHTS)
    for name in TASK_FOLDERS:
        export(samples, tmp_path / name, name, pictures, WEIGHTS)
    index = json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text())
    lines = dict(
        line.strip().split(": ", 1)
        for line in (tmp_path / "llamafactory" / "README.md").read_text().splitlines()
        if line.startswith("    ")
    )
    assert lines["dataset"].split(",") == list(index) == [as_label(task) for task in drawn]
    assert [float(part) for part in lines["interleave_probs"].split(",")] == list(drawn.values())
    command = (tmp_path / "swift_tasks" / "README.md").read_text()
    assert f"--interleave_prob {' '.join(map(repr, drawn.values()))} " in command
    assert "--is_binary_loss_scale false" in command
    blend = yaml.safe_load((tmp_path / "webdataset" / "metadataset.yaml").read_text())["splits"]["train"]["blend"]
    assert [part["weight"] for part in blend] == list(drawn.values())
    assert all((tmp_path / "webdataset" / part["path"]).is_dir() for part in blend)


def test_answers_of_ms_swift_carry_the_weight_of_their_task(samples, pictures, tmp_path):
    """Every answer that is trained on and nothing else; without weights no turn says a scale."""
    context = Sample((Message("user", "q"), Message("assistant", "a", False), Message("assistant", "b")), task="vqa")
    export([*samples, context], tmp_path / "out", "swift_tasks", pictures, WEIGHTS)
    for task, weight in WEIGHTS.items():
        lines = (tmp_path / "out" / f"{as_label(task)}.jsonl").read_text().splitlines()
        for turn in (turn for line in lines for turn in json.loads(line)["messages"]):
            trained = turn["role"] == "assistant" and turn.get("loss", True)
            assert turn.get("loss_scale") == (weight if trained else None)
    with pytest.raises(UserError, match="no weight for the tasks ocr/é 1, unknown"):
        export(samples, tmp_path / "out", "swift_tasks", pictures, {"vqa": 1.0})
    export(samples, tmp_path / "out", "swift_tasks", pictures)
    assert not any("loss_scale" in path.read_text() for path in (tmp_path / "out").glob("*.*"))


def test_a_new_export_replaces_an_old_one_and_nothing_else(samples, pictures, tmp_path):
    """Parts of tasks that are gone go; a file that no export wrote refuses the folder, which stays as it is."""
    out = tmp_path / "out"
    export(samples, out, "swift_tasks", pictures)
    export(samples[:1], out, "swift_tasks", pictures)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", CARD, "vqa.jsonl"]
    (out / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"such as mine\.txt \(1 in all\)"):
        export(samples, out, "webdataset", pictures)
    assert (out / "mine.txt").read_text() == "kept"
    with pytest.raises(UserError, match="is a file"):
        export(samples, out / "vqa.jsonl", "webdataset", pictures)


def test_what_fails_leaves_the_folder_of_before(samples, pictures, tmp_path):
    """An image that is gone, rows that end in an error: no new file anywhere."""
    export(samples[:1], tmp_path / "out", "webdataset", pictures)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    gone = Sample((Message("user", "<image>"), Message("assistant", "a")), (ImageRef(path="gone.png"),), task="vqa")
    with pytest.raises(UserError, match="gone.png"):
        export([*samples, gone], tmp_path / "out", "webdataset", pictures)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_context_is_said_or_refused(pictures, tmp_path):
    """An answer that is not trained on: `loss` false in messages; LLaMA-Factory has no word for it."""
    sample = Sample((Message("user", "q"), Message("assistant", "a", False), Message("assistant", "b")), task="vqa")
    for name in ("swift_tasks", "webdataset"):
        export([sample], tmp_path / name, name, pictures)
    row = json.loads((tmp_path / "swift_tasks" / "vqa.jsonl").read_text())
    assert [turn.get("loss") for turn in row["messages"]] == [None, False, None]
    with pytest.raises(UserError, match="train_all"):
        export([sample], tmp_path / "llamafactory", "llamafactory", pictures)


def test_the_card_has_the_counts(samples, pictures, tmp_path):
    """By task, with the fingerprint and every file."""
    export(samples, tmp_path / "out", "webdataset", pictures, WEIGHTS)
    card = json.loads((tmp_path / "out" / CARD).read_text())
    assert {task: facts["rows"] for task, facts in card["tasks"].items()} == {"vqa": 1, "ocr/é 1": 3, "unknown": 3}
    assert math.isclose(sum(facts["probability"] for facts in card["tasks"].values()), 1.0)
    assert (card["rows"], card["fingerprint"], card["weights"]) == (7, "abc", WEIGHTS)
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == {*card["files"], CARD}
