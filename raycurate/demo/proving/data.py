"""Build the proving ground: one mixture of 33 tasks in LLaVA's JSON layout, with the faults of real mixtures.

    OUT/train.json  OUT/validation.json  OUT/test.json    rows as the demo's; "image" is relative to OUT
    OUT/images/PART/XX/DIGEST.png    one file per distinct image of a part
    OUT/faults.json    ids of the train rows with a wrong answer, and of near-duplicates with the row they resemble
    OUT/proving.json   settings, counts and the digest of all rows

Sizes by `rows` of train: icon_color, the easy source, has 24 %, yes_no 15 %; the rest falls to 0.24 % for the rare
ones, so largest : smallest = 100. Of the train rows 5 % carry another answer of their task, and of those with an
image 10 % repeat an earlier row with the image moved by one pixel and a little lighter or darker. Validation and test
are clean: 100 and 200 rows of each task. No image of one part occurs in another, by pixels. The same (rows, seed)
gives the same bytes under the same package versions.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageEnhance

from raycurate.demo.materials import Picture, Split, load_pictures, load_scans
from raycurate.demo.proving.materials import PARTS, Part, load_shelf
from raycurate.demo.proving.tasks import DRAWN_TASKS
from raycurate.demo.tasks import MADE_TASKS, Material, Row, easy_vqa_rows
from raycurate.errors import UserError

SMALLEST, LARGEST = 2_000, 100_000
TEST_ROWS, VALIDATION_ROWS = 200, 100
WRONG, NEAR = 0.05, 0.10
_MANIFEST = "proving.json"
# Share of train in 1/10,000; what is left of a part's rows by rounding is dropped.
SHARES: dict[str, int] = {
    "icon_color": 2400, "yes_no": 1500, "letter": 700, "icon_name": 650, "read_number": 500, "shape": 450, "color": 450,
    "icon_is": 450, "count": 300, "read_word": 300, "icon_count": 218, "caption": 200, "dialogue": 150, "box": 150,
    "larger_number": 150, "icon_kind": 150, "chart_type": 150, "highest_bar": 150, "letter_case": 150,
    "font_family": 100, "trend": 100, "icon_same": 75, "parity": 75, "weather": 75, "car_origin": 75, "bigger": 60,
    "color_german": 60, "arithmetic": 50, "digit_italian": 50, "color_french": 40, "shape_spanish": 24,
    "brand_name": 24, "sort_words": 24,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProvingSummary:
    """What a proving ground holds: rows by part and task, its faults, and the SHA-256 of its rows and images."""

    tasks: dict[str, dict[str, int]]
    wrong: int
    near: int
    digest: str


def build_proving_ground(out: Path, *, rows: int = 20_000, seed: int = 0) -> ProvingSummary:
    """Write the proving ground to the folder `out`, which is new or empty or holds the same one already.

    Raises:
        UserError: wrong `rows`, something else in `out`, or a missing package.
    """
    if not SMALLEST <= rows <= LARGEST:
        raise UserError(f"rows must be {SMALLEST} to {LARGEST}, got {rows}: fewer leave rare tasks without a row.")
    settings = {"rows": rows, "seed": seed}
    if (out / _MANIFEST).is_file():
        found = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
        if found["settings"] == settings:
            return ProvingSummary(**found["summary"])
        raise UserError(f"{out} holds a proving ground of {found['settings']}. Give another folder for {settings}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a proving ground. Give an empty or a new folder.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writer = _Writer(partial, {}, hashlib.sha256(), [], {})
    tasks: dict[str, dict[str, int]] = {part: _write_part(writer, part, rows, seed) for part in PARTS}
    faults = {"wrong": writer.wrong, "near": writer.near}
    (partial / "faults.json").write_text(json.dumps(faults, indent=1) + "\n", encoding="utf-8")
    summary = ProvingSummary(tasks, len(writer.wrong), len(writer.near), writer.rows_hash.hexdigest())
    manifest = {"settings": settings, "summary": asdict(summary)}
    (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return summary


@dataclass(slots=True)
class _Writer:
    """Where rows go; `owners` tells the part of every image, by digest."""

    root: Path
    owners: dict[str, Part]
    rows_hash: Any
    wrong: list[str]
    near: dict[str, str]

    def place(self, row: Row, part: Part) -> tuple[bool, str | None]:
        """Store the row's image; False where another part has it already. The name is relative to the root."""
        if row.image is None:
            return True, None
        image = _pixels(row.image)
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        name = f"images/{part}/{digest[:2]}/{digest[:20]}.png"
        if self.owners.setdefault(digest, part) != part:
            return False, None
        if not (self.root / name).exists():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(self.root / name, compress_level=1)
        return True, name


def _write_part(writer: _Writer, part: Part, rows: int, seed: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    with (writer.root / f"{part}.json").open("w", encoding="utf-8") as file:
        separator = "[\n"
        for task, stream in _streams(part, rows, seed):
            rng = random.Random(f"{seed}:{part}:{task}:faults")
            wanted = _wanted(part, task, rows)
            for record in islice(_records(writer, part, task, stream, rng), wanted):
                text = json.dumps(record)
                writer.rows_hash.update(text.encode())
                file.write(separator + text)
                separator = ",\n"
                counts[task] += 1
        file.write("\n]\n")
    return dict(counts)


def _records(
    writer: _Writer, part: Part, task: str, stream: Iterator[Row], rng: random.Random
) -> Iterator[dict[str, Any]]:
    """The rows of a task as LLaVA's, with faults in train; those with another part's image are left out."""
    recent: deque[tuple[str, Row]] = deque(maxlen=50)
    number = 0
    while True:
        near_to: str | None = None
        if part == "train" and recent and rng.random() < NEAR and recent[-1][1].image is not None:
            near_to, old = rng.choice(recent)
            row = replace(old, image=_nearly(old.image, rng))
        else:
            found = next(stream, None)
            if found is None:
                return
            row = found
        placed, image = writer.place(row, part)
        if not placed:
            continue
        key = f"{task}-{part}-{number:05d}"
        number += 1
        turns = list(row.turns)
        others = sorted({old.turns[-1][1] for _, old in recent} - {turns[-1][1]})
        if near_to is None:
            recent.append((key, row))
        else:
            writer.near[key] = near_to
        if part == "train" and others and rng.random() < WRONG:
            turns[-1] = (turns[-1][0], rng.choice(others))
            writer.wrong.append(key)
        yield _llava_row(key, task, turns, image)


def _streams(part: Part, rows: int, seed: int) -> Iterator[tuple[str, Iterator[Row]]]:
    """Every task with its rows, more than are wanted where its source has them."""
    split: Split = "train" if part == "train" else "test"
    # The demo's test pictures and scans are dealt to test and validation.
    own = slice(None) if part == "train" else slice(0, None, 2) if part == "test" else slice(1, None, 2)
    scans = {digit: members[own] for digit, members in load_scans(split).items()}
    material = Material(split, load_pictures(split)[own], scans)
    shelf = load_shelf(part)
    asked = list(easy_vqa_rows(material))
    random.Random(f"{seed}:{part}:asked").shuffle(asked)
    for task in SHARES:
        rng = random.Random(f"{seed}:{part}:{task}")
        if task in DRAWN_TASKS:
            yield task, DRAWN_TASKS[task](material, shelf, rng)
        elif task in MADE_TASKS:
            yield task, MADE_TASKS[task][0](material, rng, 2 * _wanted(part, task, rows))
        else:
            yield task, iter([row for row in asked if row.task == task])


def _wanted(part: Part, task: str, rows: int) -> int:
    return rows * SHARES[task] // 10_000 if part == "train" else TEST_ROWS if part == "test" else VALIDATION_ROWS


def _pixels(image: Picture | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    with Image.open(image.path) as stored:
        return stored.convert("RGB")


def _nearly(image: Picture | Image.Image | None, rng: random.Random) -> Image.Image:
    assert image is not None, "only rows with an image are repeated nearly"
    moved = ImageChops.offset(_pixels(image), rng.choice((-1, 1)), rng.choice((-1, 1)))
    return ImageEnhance.Brightness(moved).enhance(rng.choice((0.94, 0.97, 1.03, 1.06)))


def _llava_row(key: str, task: str, turns: list[tuple[str, str]], image: str | None) -> dict[str, Any]:
    conversations = []
    for question, answer in turns:
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": key, **({} if image is None else {"image": image}), "task": task, "conversations": conversations}
