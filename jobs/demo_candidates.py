"""Make the datasets of an Individual Select on the demo data: a baseline, six candidates and more, a validation set.

\b
    baseline.json         random rows of some tasks
    validation.json       the test rows of every second image
    shape, read_number, count, box, larger_number, caption, ... one task each that the baseline does not have
    shuffled.json         other rows of all tasks, each with the answers of another row
    duplicate.json        the baseline's own rows

\b
Example (`jobs/demo.py` makes the data):
  python jobs/demo_candidates.py --data demo-run/data --out demo-run/individual
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from raycurate.cli.support import ReadableCommand
from raycurate.errors import UserError

Row = dict[str, Any]
BASELINE = ("yes_no", "color", "caption", "dialogue", "bigger")
CANDIDATES = ("shape", "read_number", "count", "box", "larger_number")


@click.command(cls=ReadableCommand, help=__doc__)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--rows", default=6000, help="Of the baseline.")
@click.option("--candidate-rows", default=1500, help="Of each candidate, at most.")
@click.option("--validation-rows", default=1500, help="Of each task, at most.")
@click.option("--seed", default=0)
def main(data: Path, out: Path, rows: int, candidate_rows: int, validation_rows: int, seed: int) -> None:
    """Write the files."""
    drawn = random.Random(seed)
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in _read(data / "train.json"):
        by_task[row["task"]].append(row)
    for members in by_task.values():
        drawn.shuffle(members)
    pool = [row for task in BASELINE for row in by_task[task][: rows // 2]]
    baseline = drawn.sample(pool, min(rows, len(pool)))
    files = {"baseline": baseline, "duplicate": baseline[:candidate_rows]}
    files |= {task: by_task[task][:candidate_rows] for task in CANDIDATES}
    rest = [row for task in (*BASELINE, *CANDIDATES) for row in by_task[task][max(rows // 2, candidate_rows) :]]
    files["shuffled"] = _shuffle(drawn.sample(rest, min(candidate_rows, len(rest))), drawn)
    files["validation"] = _validation(_read(data / "test.json"), validation_rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, members in files.items():
        (out / f"{name}.json").write_text(json.dumps(members), encoding="utf-8")
        click.echo(f"{name}: {len(members):,} rows")


def _read(path: Path) -> list[Row]:
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; jobs/demo.py makes the demo data") from None
    return rows


def _shuffle(rows: list[Row], drawn: random.Random) -> list[Row]:
    """The rows' questions, each with another row's answers."""
    conversations = [row["conversations"] for row in rows]
    answers = [conversation[1::2] for conversation in conversations]
    drawn.shuffle(answers)
    mixed = []
    for row, own, other in zip(rows, conversations, answers, strict=True):
        turns = [turn for pair in zip(own[0::2], other, strict=False) for turn in pair]
        mixed.append({**row, "id": f"shuffled-{row['id']}", "conversations": turns})
    return mixed


def _validation(rows: list[Row], largest: int) -> list[Row]:
    """Every second image's rows (a text-only row is an image of its own), some of each task."""
    images = {image: number for number, image in enumerate(dict.fromkeys(_image(row) for row in rows))}
    counts: dict[str, int] = defaultdict(int)
    kept = []
    for row in rows:
        if images[_image(row)] % 2 == 0 and counts[row["task"]] < largest:
            counts[row["task"]] += 1
            kept.append(row)
    return kept


def _image(row: Row) -> str:
    return str(row.get("image") or row["id"])


if __name__ == "__main__":
    main()
