"""A run directory of every stage, small enough to be kept in the repository, as the code of some commit made it.

    python -m tests.stored_run NAME       make it with the code that is imported, keep it as tests/data/NAME.tar.xz

Source, images, recipe and run lie on an object store, whose URIs are the same on every machine: a run names its source
and its images by their places, and its fingerprints hold them. `put` lays a stored run there again, byte for byte.

Making it uses nothing of the code but its command line, so a checkout of any commit can be asked for its run directory:
put that checkout first on PYTHONPATH and run this file. The one that today's code must find finished is made anew only
where the meaning of a noun changed, together with the version of its stage.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import yaml
from PIL import Image

from tests.object_store import s3_server, use_endpoint

DATA = Path(__file__).parent / "data"
BUCKET = "bucket"
FOLDER = f"{BUCKET}/stored"
URI = f"s3://{FOLDER}"
TASKS = ("colour", "shape", "count")
LEFT_OUT = ("/logs/", "/progress.json")
"""What no stage reads."""


def recipe() -> dict[str, Any]:
    """Every stage, with the embedded model."""
    training = {"model": "tiny", "lora_rank": 1, "train_projector": False, "max_steps": 1, "batch_rows": 4}
    return {
        "run": f"{URI}/run",
        "ingest": {"source": f"{URI}/train.json", "images": f"{URI}/images", "rows_per_shard": 12},
        "extract": {"model": "tiny", "layers": [1], "dtype": "float32"},
        "score": {"scores": ["token_losses", "mean_token"], "dtype": "float32"},
        "cluster": {"clusters": 3, "iterations": 4},
        "select": {"method": "coincide", "ratio": 0.5},
        "export": {"out": f"{URI}/coreset.json"},
        "test": {"source": f"{URI}/test.json", "images": f"{URI}/images", "label": "test"},
        "finetune": {**training, "selection": "main"},
        "evaluate": {"model": "models/main", "data": "test", "max_new_tokens": 4},
        "compare": {
            "methods": ["random"],
            "seeds": [0],
            "ratio": 0.5,
            "finetune": training,
            "evaluate": {"max_new_tokens": 4},
        },
    }


def put(name: str, filesystem: pafs.FileSystem) -> None:
    """Lay a stored run on the object store."""
    with tarfile.open(DATA / f"{name}.tar.xz") as kept:
        for member in kept:
            data = kept.extractfile(member)
            assert data is not None, f"{member.name} is no file"
            write(filesystem, member.name, data.read())


def write(filesystem: pafs.FileSystem, name: str, data: bytes) -> None:
    """A file below `URI`."""
    with filesystem.open_output_stream(f"{FOLDER}/{name}") as out:
        out.write(data)


def files(filesystem: pafs.FileSystem) -> dict[str, bytes]:
    """Every file below `URI`."""
    found = filesystem.get_file_info(pafs.FileSelector(FOLDER, recursive=True))
    names = sorted(info.path for info in found if info.type == pafs.FileType.File)
    return {name.removeprefix(f"{FOLDER}/"): filesystem.open_input_file(name).read() for name in names}


def source() -> dict[str, bytes]:
    """24 rows to curate and 8 to score on, of three tasks, over six images."""
    made: dict[str, bytes] = {}
    for number in range(6):
        pixels = np.full((32, 32, 3), 40 * number, dtype=np.uint8)
        pixels[4 * number : 4 * number + 8, 8:24] = (255, 30 * number, 0)
        image = io.BytesIO()
        Image.fromarray(pixels).save(image, "png")
        made[f"images/{number}.png"] = image.getvalue()
    for name, rows in (("train", 24), ("test", 8)):
        made[f"{name}.json"] = json.dumps([_row(f"{name}-{number}", number) for number in range(rows)]).encode()
    return made


def _row(name: str, number: int) -> dict[str, Any]:
    task = TASKS[number % 3]
    seen = {"image": f"{number % 6}.png"} if number % 4 else {}
    question = f"{'<image>' if seen else ''}Which {task} is number {number}?"
    answer = f"{'red' if number % 2 else 'blue'} {number}"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "task": task, **seen, "conversations": turns}


def make(name: str) -> None:
    """Run the recipe on an object store of its own and keep what is there then."""
    with s3_server(BUCKET) as port, tempfile.TemporaryDirectory() as temporary:
        use_endpoint(port)
        filesystem, _ = pafs.FileSystem.from_uri(URI)
        for path, data in source().items():
            write(filesystem, path, data)
        place = Path(temporary) / "recipe.yaml"
        place.write_text(yaml.safe_dump(recipe(), sort_keys=False), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "raycurate.cli", "run", str(place)], check=True)
        DATA.mkdir(exist_ok=True)
        with tarfile.open(DATA / f"{name}.tar.xz", "w:xz", preset=9) as kept:
            for path, data in files(filesystem).items():
                if not any(part in f"/{path}" for part in LEFT_OUT):
                    entry = tarfile.TarInfo(path)
                    entry.size = len(data)
                    kept.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    make(sys.argv[1])
