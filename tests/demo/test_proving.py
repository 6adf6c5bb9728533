"""The proving ground: many uneven tasks, parts apart, faults as stated, same bytes for the same settings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raycurate.demo.proving import ProvingSummary, build_proving_ground
from raycurate.demo.proving.data import SHARES, TEST_ROWS, VALIDATION_ROWS
from raycurate.errors import UserError

pytest.importorskip("easy_vqa")
pytest.importorskip("sklearn")
pytest.importorskip("fontawesomefree")
pytest.importorskip("vega_datasets")

ROWS = 5000
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProvingSummary]:
    """The smoke size."""
    out = tmp_path_factory.mktemp("proving") / "set"
    return out, build_proving_ground(out, rows=ROWS)


def _rows(root: Path, part: str) -> list[dict[str, Any]]:
    return json.loads((root / f"{part}.json").read_text())


def _digest(root: Path) -> str:
    hashed = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        hashed.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return hashed.hexdigest()


def test_tasks_are_many_and_very_uneven(ground: tuple[Path, ProvingSummary]) -> None:
    """Every task has its share of train, 200 test and 100 validation rows; largest : smallest is at least 100."""
    root, summary = ground
    assert sum(SHARES.values()) == 10_000
    for part in PARTS:
        counts = Counter(row["task"] for row in _rows(root, part))
        assert counts == summary.tasks[part]
        wanted = {"test": TEST_ROWS, "validation": VALIDATION_ROWS}
        assert counts == {task: wanted.get(part, ROWS * share // 10_000) for task, share in SHARES.items()}
    train = summary.tasks["train"].values()
    assert len(train) >= 20
    assert max(train) >= 100 * min(train)


def test_parts_share_no_image(ground: tuple[Path, ProvingSummary]) -> None:
    """No picture of one part is in another, by pixels, and every named file is there."""
    root, _ = ground
    seen: dict[bytes, str] = {}
    for part in PARTS:
        for name in {row["image"] for row in _rows(root, part) if "image" in row}:
            with Image.open(root / name) as image:
                key = hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).digest()
            assert seen.setdefault(key, part) == part


def test_faults_are_in_train_alone_and_told(ground: tuple[Path, ProvingSummary]) -> None:
    """About 5 % wrong answers and 10 % near-duplicates; a near-duplicate asks what its original asks."""
    root, summary = ground
    faults = json.loads((root / "faults.json").read_text())
    rows = {row["id"]: row for row in _rows(root, "train")}
    assert len(rows) == sum(summary.tasks["train"].values())
    assert 0.035 < len(faults["wrong"]) / ROWS < 0.065
    assert 0.07 < len(faults["near"]) / ROWS < 0.12
    assert set(faults["wrong"]) | set(faults["near"]) <= rows.keys()
    for key, original in faults["near"].items():
        copy, first = rows[key]["conversations"], rows[original]["conversations"]
        assert [turn["value"] for turn in copy[::2]] == [turn["value"] for turn in first[::2]]
        assert rows[key]["image"] != rows[original]["image"]
        if not {key, original} & set(faults["wrong"]):
            assert copy == first


def test_same_settings_give_the_same_bytes(ground: tuple[Path, ProvingSummary], tmp_path: Path) -> None:
    """A second build has the same files; another seed has other rows."""
    root, summary = ground
    again = build_proving_ground(tmp_path / "again", rows=ROWS)
    assert again == summary
    assert _digest(tmp_path / "again") == _digest(root)
    assert build_proving_ground(tmp_path / "other", rows=ROWS, seed=1).digest != summary.digest


def test_what_lies_in_the_way_stays(ground: tuple[Path, ProvingSummary], tmp_path: Path) -> None:
    """A finished one is found again; other settings, a foreign folder and an impossible size are refused."""
    root, summary = ground
    assert build_proving_ground(root, rows=ROWS) == summary
    with pytest.raises(UserError, match="another folder"):
        build_proving_ground(root, rows=ROWS, seed=1)
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UserError, match="not a proving ground"):
        build_proving_ground(tmp_path, rows=ROWS)
    with pytest.raises(UserError, match="rows must be"):
        build_proving_ground(tmp_path / "small", rows=10)
