"""What `dedup` and `decontaminate` find of planted copies and planted test rows, and what they mark besides.

\b
    copies    the near-duplicates that the proving ground was made with (its faults.json): recall by task, precision
    planted   test rows made from rows of train: the row itself, its picture encoded anew or cropped by 5 %, its text
              with two words of the question changed; and the data's own test rows, of which none was planted
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import click
from PIL import Image

from raycurate.cleaning.config import DecontaminateConfig, DedupConfig
from raycurate.cli.support import ReadableCommand
from raycurate.config import IngestConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.decontaminate import decontaminate as decontaminate_stage
from raycurate.stages.dedup import dedup as dedup_stage
from raycurate.stages.ingest import ingest

QUALITY, CROP = 75, 0.05
WORDS = (
    *("maple", "copper", "lantern", "seven", "harbour", "velvet"),
    *("onion", "gravel", "whistle", "puzzle", "meadow", "anchor"),
)
Row = dict[str, Any]


@click.group(help=__doc__)
def main() -> None:
    """Make the run, clean it, count."""
    logging.basicConfig(level=logging.WARNING)


@main.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False), help="A proving ground.")
@click.option("--run", required=True, help="Run directory; prints of the rows are made once.")
@click.option("--distances", default="4,6,8,10,12", help="Bits that near images may differ in.")
def copies(data: str, run: str, distances: str) -> None:
    """Recall and precision of `dedup` on the planted near-duplicates.

    \b
    Example:
      python jobs/bench_cleaning.py copies --data proving --run cleaning-run
    """
    rows, near = _rows(f"{data}/train.json"), json.loads(Path(data, "faults.json").read_text("utf-8"))["near"]
    _ingest(run, f"{data}/train.json", data, "main")
    for distance in map(int, distances.split(",")):
        settings = {"distance": distance, "replace": True}
        manifest = dedup_stage(Run(run), make_config(DedupConfig, settings))
        _tell_copies(distance, manifest.metrics["reasons"], _marks(run, "dedup"), rows, near)


def _tell_copies(
    distance: int, reasons: dict[str, int], marks: list[Row], rows: dict[str, Row], near: dict[str, str]
) -> None:
    """One distance in lines: all, and by task."""
    group = {mark["source_id"]: mark["group"] or mark["key"] for mark in marks}
    marked = [mark for mark in marks if mark["reason"]]

    def origin(row: str) -> str:
        while row in near:
            row = near[row]
        return row

    same = [row for row, old in near.items() if rows[row]["conversations"] == rows[old]["conversations"]]
    found = [row for row in same if group[row] == group[near[row]]]
    others = [row for row in near if row not in set(same) and group[row] == group[near[row]]]
    planted = [mark for mark in marked if origin(mark["source_id"]) == origin(mark["like_source_id"])]
    click.echo(
        f"distance {distance}: {reasons}; of {len(same)} planted copies found {len(found)} "
        f"({len(found) / max(len(same), 1):.3f}), of {len(near) - len(same)} with another answer {len(others)}; "
        f"of {len(marked)} marked rows {len(planted)} ({len(planted) / max(len(marked), 1):.3f}) are planted copies "
        "of the row that stays"
    )
    all_by, found_by = (Counter(rows[row]["task"] for row in some) for some in (same, found))
    click.echo("  by task: " + ", ".join(f"{task} {found_by[task]}/{count}" for task, count in all_by.most_common()))


@main.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--run", required=True, help="Run directory; prints of the rows are made once.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the planted test rows.")
@click.option("--rows", "count", default=200, help="Test rows of each kind.")
@click.option("--seed", default=0)
@click.option("--distance", default=8, help="Bits that near images may differ in.")
@click.option("--overlap", default=0.7, help="Part of a test row's words that tells of it.")
def planted(data: Path, run: str, out: Path, count: int, seed: int, distance: int, overlap: float) -> None:
    """What `decontaminate` finds of planted test rows, kind by kind.

    \b
    Example:
      python jobs/bench_cleaning.py planted --data proving --run cleaning-run --out planted
    """
    _ingest(run, f"{data}/train.json", str(data), "main")
    for kind, (tests, origins) in _plant(data, out, count, seed).items():
        label = f"planted-{kind}"
        (out / f"{kind}.json").write_text(json.dumps(tests), encoding="utf-8")
        _ingest(run, f"{out}/{kind}.json", str(out), label)
        settings = {"against": label, "label": label, "distance": distance, "overlap": overlap, "replace": True}
        manifest = decontaminate_stage(Run(run), make_config(DecontaminateConfig, settings))
        marked = {mark["source_id"] for mark in _marks(run, label) if mark["reason"]}
        click.echo(
            f"{kind:<12} {len(tests):>5} test rows; of {len(origins)} planted rows found {len(origins & marked)}; "
            f"marked besides {len(marked - origins)}; {manifest.metrics['reasons']}"
        )


def _plant(data: Path, out: Path, count: int, seed: int) -> dict[str, tuple[list[Row], set[str]]]:
    """Test rows of each kind, and the ids of the rows that they were made from; their pictures are in `out`."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows, rng = list(_rows(f"{data}/train.json").values()), random.Random(seed)
    shown, texts = [row for row in rows if "image" in row], [row for row in rows if "image" not in row]
    own = list(_rows(f"{data}/test.json").values())
    chosen = rng.sample(shown, min(count, len(shown)))
    spoken = rng.sample(texts, min(count, len(texts)))
    made: dict[str, tuple[list[Row], set[str]]] = {"none": (_copied(own, data, out, "t"), set())}
    made["same row"] = (_copied(chosen, data, out, "s"), {row["id"] for row in chosen})
    for kind in ("reencoded", "cropped"):
        tests = [_asked_otherwise(row, n, _picture(row, kind, data, out, rng)) for n, row in enumerate(chosen)]
        made[kind] = (tests, {row["id"] for row in chosen})
    others = [row for row in own if "image" in row]
    long = [row for row in chosen if len(_question(row).split()) >= 4]
    reworded = [_reworded(row, rng) | {"image": _copy(rng.choice(others), data, out)} for row in long]
    made["reworded"] = (reworded, {row["id"] for row in long})
    made["reworded text"] = ([_reworded(row, rng) for row in spoken], {row["id"] for row in spoken})
    return {kind.replace(" ", "-"): value for kind, value in made.items()}


def _picture(row: Row, kind: str, data: Path, out: Path, rng: random.Random) -> str:
    """The name of a row's picture, encoded anew or cropped."""
    image = Image.open(data / row["image"]).convert("RGB")
    name = f"images/{kind}-{row['id']}.{'jpg' if kind == 'reencoded' else 'png'}"
    if kind == "reencoded":
        image.save(out / name, quality=QUALITY)
        return name
    width, height = (round(side * (1 - CROP)) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    image.crop((left, top, left + width, top + height)).save(out / name)
    return name


def _copied(rows: list[Row], data: Path, out: Path, prefix: str) -> list[Row]:
    return [{**r, "id": f"{prefix}{r['id']}", **({"image": _copy(r, data, out)} if "image" in r else {})} for r in rows]


def _copy(row: Row, data: Path, out: Path) -> str:
    target = out / row["image"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((data / row["image"]).read_bytes())
    return str(row["image"])


def _question(row: Row) -> str:
    return str(row["conversations"][0]["value"]).replace("<image>", "").strip()


def _asked_otherwise(row: Row, number: int, image: str) -> Row:
    """A test row of the same picture and no word of the row."""
    asked = f"<image>\nplanted number {number}: {' '.join(WORDS[:4])}"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"planted {number}"}]
    return {"id": f"p{row['id']}", "image": image, "task": row["task"], "conversations": turns}


def _reworded(row: Row, rng: random.Random) -> Row:
    """The row with two words of its first question replaced."""
    words = _question(row).split()
    for place in rng.sample(range(len(words)), min(2, len(words))):
        words[place] = rng.choice(WORDS)
    mark = "<image>\n" if "image" in row else ""
    first = {**row["conversations"][0], "value": mark + " ".join(words)}
    return {**row, "id": f"r{row['id']}", "conversations": [first, *row["conversations"][1:]]}


def _rows(path: str) -> dict[str, Row]:
    return {row["id"]: row for row in json.loads(Path(path).read_text(encoding="utf-8"))}


def _ingest(run: str, source: str, images: str, label: str) -> None:
    ingest(Run(run), make_config(IngestConfig, {"source": source, "images": images, "label": label, "replace": True}))


def _marks(run: str, label: str) -> list[Row]:
    return [row for part in Run(run).noun("marks", label).iter_parts() for row in part.to_pylist()]


if __name__ == "__main__":
    main()
