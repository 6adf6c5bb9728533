"""The demo dataset: real questions kept, splits apart, answers right, same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raycurate.demo import FULL_TRAIN_ROWS, DemoSummary, build_demo_dataset, scale_for_rows
from raycurate.demo.materials import COLORS, SHAPES, load_pictures, load_scans, shape_box
from raycurate.demo.tasks import MADE_TASKS
from raycurate.errors import UserError

pytest.importorskip("easy_vqa")
pytest.importorskip("sklearn")

SCALE = 0.01


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    """A demo at one hundredth of its size."""
    return build_demo_dataset(tmp_path_factory.mktemp("demo") / "set", scale=SCALE)


def _rows(demo: DemoSummary, split: str) -> list[dict[str, Any]]:
    return json.loads((demo.out / f"{split}.json").read_text())


def _digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _naive_box(path: Path) -> tuple[int, int, int, int]:
    image = Image.open(path).convert("RGB")
    pixels = {(x, y): image.getpixel((x, y)) for x in range(image.width) for y in range(image.height)}
    colors = list(pixels.values())
    background = max(set(colors), key=colors.count)
    inside = [place for place, color in pixels.items() if color != background]
    xs, ys = [x for x, _ in inside], [y for _, y in inside]
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def test_easy_vqa_is_the_known_release() -> None:
    """The package holds 4,000 + 1,000 images and 38,575 + 9,673 questions with 13 answers."""
    train, test = load_pictures("train"), load_pictures("test")
    assert (len(train), len(test)) == (4000, 1000)
    assert (sum(len(p.questions) for p in train), sum(len(p.questions) for p in test)) == (38575, 9673)
    assert {answer for p in train for _, answer in p.questions} == {"yes", "no", *SHAPES, *COLORS}


def test_full_size_is_the_sum_of_its_tasks() -> None:
    """The stated number of train rows is easy-vqa's questions plus the made tasks."""
    assert 38575 + sum(train for _, train, _ in MADE_TASKS.values()) == FULL_TRAIN_ROWS


def test_scans_are_split_once() -> None:
    """Every scan is in exactly one split and none is in both by content."""
    train, test = load_scans("train"), load_scans("test")
    assert sum(map(len, train.values())) + sum(map(len, test.values())) == 1797
    pixels = [{scan.pixels.tobytes() for scans in side.values() for scan in scans} for side in (train, test)]
    assert not pixels[0] & pixels[1]


def test_same_seed_gives_same_bytes(demo: DemoSummary, tmp_path: Path) -> None:
    """A second build has the same files with the same content; another seed has not."""
    again = build_demo_dataset(tmp_path / "again", scale=SCALE)
    assert _digests(again.out) == _digests(demo.out)
    other = build_demo_dataset(tmp_path / "other", scale=SCALE, seed=1)
    assert _digests(other.out) != _digests(demo.out)


def test_tasks_are_many_and_uneven(demo: DemoSummary) -> None:
    """There are at least eight tasks, the largest more than ten times the smallest, in the files as in the summary."""
    for split, tasks in (("train", demo.train_tasks), ("test", demo.test_tasks)):
        rows = _rows(demo, split)
        assert {task: sum(row["task"] == task for row in rows) for task in tasks} == tasks
        assert sum(tasks.values()) == len(rows)
    assert len(demo.train_tasks) >= 8
    assert max(demo.train_tasks.values()) > 10 * min(demo.train_tasks.values())


def test_train_and_test_share_no_image(demo: DemoSummary) -> None:
    """No image of test occurs in train, by pixels."""
    seen = []
    for split in ("train", "test"):
        files = (demo.out / "images" / split).rglob("*.png")
        seen.append({Image.open(path).convert("RGB").tobytes() for path in files})
    assert min(map(len, seen)) > 0
    assert not seen[0] & seen[1]


def test_rows_are_llava_rows(demo: DemoSummary) -> None:
    """Ids are unique, turns alternate, and a row has one mark, in its first turn, exactly where it has an image."""
    for split in ("train", "test"):
        rows = _rows(demo, split)
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            turns = row["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            marks = [turn["value"].count("<image>") for turn in turns]
            assert marks == [int("image" in row), *[0] * (len(turns) - 1)]
            assert all(turn["value"].strip() for turn in turns)
            if "image" in row:
                assert (demo.out / row["image"]).is_file()
    assert any(len(row["conversations"]) > 2 for row in _rows(demo, "train"))


def test_boxes_are_the_pixels(demo: DemoSummary) -> None:
    """A box answer equals the box found pixel by pixel, and so does `shape_box`."""
    rows = [row for row in _rows(demo, "train") if row["task"] == "box"]
    assert rows
    for row in rows[:5]:
        path = demo.out / row["image"]
        expected = _naive_box(path)
        assert shape_box(path) == expected
        answer = json.loads(row["conversations"][1]["value"])
        assert np.allclose(answer, np.array(expected) / 64, atol=0.00501)


def test_easy_vqa_questions_are_word_for_word(demo: DemoSummary) -> None:
    """Rows of the three easy-vqa tasks are questions of the package about that image, with its answer."""
    known = {(p.number, question, answer) for p in load_pictures("train") for question, answer in p.questions}
    rows = [row for row in _rows(demo, "train") if row["task"] in ("shape", "color", "yes_no")]
    for row in rows:
        question, answer = (turn["value"] for turn in row["conversations"])
        assert (int(Path(row["image"]).stem), question.removeprefix("<image>\n"), answer) in known


def test_second_build_returns_at_once(demo: DemoSummary) -> None:
    """The same settings find the dataset in place."""
    again = build_demo_dataset(demo.out, scale=SCALE)
    assert again.reused
    assert (again.train_tasks, again.test_images) == (demo.train_tasks, demo.test_images)


def test_other_settings_replace_a_demo(tmp_path: Path) -> None:
    """A demo of another seed is replaced whole and leaves nothing behind."""
    build_demo_dataset(tmp_path / "set", scale=0.002)
    summary = build_demo_dataset(tmp_path / "set", scale=0.002, seed=3)
    assert not summary.reused
    assert summary.seed == 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    """A non-empty folder that is no demo is refused and untouched."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a demo dataset"):
        build_demo_dataset(tmp_path, scale=SCALE)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, float("nan")])
def test_wrong_scale_is_refused(tmp_path: Path, scale: float) -> None:
    """A scale outside (0, 1] names the bound."""
    with pytest.raises(UserError, match="above 0 and at most 1"):
        build_demo_dataset(tmp_path / "set", scale=scale)


def test_scale_for_rows() -> None:
    """Rows become a scale, capped at the full set; fewer than one is refused."""
    assert scale_for_rows(FULL_TRAIN_ROWS) == 1.0
    assert scale_for_rows(10 * FULL_TRAIN_ROWS) == 1.0
    assert scale_for_rows(FULL_TRAIN_ROWS // 5) == pytest.approx(0.2)
    with pytest.raises(UserError, match="at least 1"):
        scale_for_rows(0)
