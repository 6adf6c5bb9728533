"""Write samples as the folders that trainers load, a part per task, so that a trainer can weigh the tasks.

FiftyOne's folder is made here too (`fiftyone.py`): it has no parts and no weights.

    llamafactory  TASK.jsonl (rows as `sharegpt`), dataset_info.json               LLaMA-Factory
    swift_tasks   TASK.jsonl (rows as `swift`, the task's weight as `loss_scale`)  ms-swift
    webdataset    TASK/shard-000000.tar, metadataset.yaml, prepare.sh              webdataset, Megatron-Energon
    all           README.md (counts, weights, what trains on it), export.json (the same for programs, and the files)

These trainers draw rows from several datasets. A task of n_t rows and weight w_t that is drawn with

    p_t = n_t w_t / sum_u n_u w_u

has, in expectation, the share of the loss that `finetune --weights` gives it: its tokens count n_t w_t times. Without
weights p_t is its part of the rows. ms-swift has a second way, without drawing: every answer carries w_t, by which the
loss of its tokens is multiplied.

Image files stay where they are; in tars, and where rows hold bytes, they are inside the folder (`export_images.py`).
The folder is made beside its place and moved there when it is whole (an object store gets `export.json` last); files
that no earlier export wrote are never touched. Cost: one pass, one row in memory, and on an object store the size of
the export on a local disk. Source of the layouts: the trainers' own data modules.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import yaml

from raycurate.errors import UserError
from raycurate.run.filesystem import TEMPORARY, delete_folder, file_sizes, read_json, resolve
from raycurate.run.names import as_label
from raycurate.samples.exporters import (
    ExportCounts,
    ExportFacts,
    ExportOptions,
    image_bytes,
    json_bytes,
    looked_at,
    row_id,
    sharegpt_row,
    swift_messages,
    swift_row,
)
from raycurate.samples.fiftyone import SHOWS_ALL, FiftyOneWriter
from raycurate.samples.folder_writers import FolderWriter, LinesWriter
from raycurate.samples.images import image_extension
from raycurate.samples.schema import Sample
from raycurate.samples.task_folders_readme import readme
from raycurate.samples.tasks import UNKNOWN_TASK

CARD = "export.json"
SHARD_ROWS, SHARD_BYTES = 1000, 256 << 20
"""Of one tar; a row that goes beyond the bytes ends it."""


def export_folder(
    samples: Iterable[Sample], output: str, format: str, options: ExportOptions, facts: ExportFacts
) -> ExportCounts:
    """Write samples to the folder ``output`` (a path or a URI) in one of `FOLDERS`.

    Raises:
        UserError: files in the folder that no export wrote, a task without weight, images that a trainer cannot reach.
    """
    counts = ExportCounts()
    with _made_whole(output) as folder:
        writer = FOLDERS[format](folder, options, facts.weights, _place_of(output))
        for sample in looked_at(samples, counts, format, options):
            writer.add(as_label(sample.task or UNKNOWN_TASK), sample)
        tasks = counts.tasks
        counts.rows = tasks.total()
        counts.images_written = writer.images_written
        counts.without_image = writer.without_image
        drawn = probabilities(tasks, facts.weights)
        writer.finish({as_label(task): part for task, part in drawn.items()})
        card = {
            "format": format,
            "made_from": facts.made_from,
            "fingerprint": facts.fingerprint,
            "rows": counts.rows,
            "tasks": {
                task: {"name": as_label(task), "rows": tasks[task], "probability": drawn[task]}
                for task in sorted(tasks)
            },
            "without_image": writer.without_image,
            "weights": None if facts.weights is None else {task: facts.weights[task] for task in sorted(tasks)},
        }
        Path(folder, "README.md").write_text(readme(card, output), encoding="utf-8")
        card["files"] = sorted(file_sizes(pafs.LocalFileSystem(), folder))
        Path(folder, CARD).write_bytes(json_bytes(card))
    return counts


def probabilities(tasks: Mapping[str, int], weights: Mapping[str, float] | None) -> dict[str, float]:
    """How often each task is drawn, by name; they sum to 1 as float64 adds them up in this order."""
    names = sorted(tasks)
    missing = [task for task in names if weights is not None and task not in weights]
    if missing:
        raise UserError(f"no weight for the tasks {', '.join(missing)}. Give every task one; 1.0 leaves it as it is.")
    mass = {task: tasks[task] * (1.0 if weights is None else weights[task]) for task in names}
    total = sum(mass.values())
    parts = {task: value / total for task, value in mass.items()}
    if names:  # what rounding leaves over would fail a reader that adds them up
        parts[names[-1]] = 1.0 - sum(parts[task] for task in names[:-1])
    return parts


class _LlamaFactory(LinesWriter):
    def row(self, sample: Sample, paths: list[str]) -> dict[str, Any]:
        """See the base."""
        return sharegpt_row(sample, paths)

    def finish(self, drawn: Mapping[str, float]) -> None:
        """The index that `dataset_dir` is searched for."""
        columns = {"messages": "conversations", "images": "images"}
        index = {name: {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "columns": columns} for name in drawn}
        Path(self.folder, "dataset_info.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n")


class _Swift(LinesWriter):
    def row(self, sample: Sample, paths: list[str]) -> dict[str, Any]:
        """See the base. A task without weight is told when all tasks are known."""
        row = swift_row(sample, paths)
        weight = (self.weights or {}).get(sample.task or UNKNOWN_TASK)
        if weight is not None:
            for message, turn in zip(row["messages"], sample.messages, strict=True):
                if turn.role == "assistant" and turn.train:
                    message["loss_scale"] = weight
        return row

    def finish(self, drawn: Mapping[str, float]) -> None:
        """Nothing: the files are named on the command line."""


class _Tars(FolderWriter):
    """Tar shards per task: ``KEY.json`` and its images ``KEY.000.jpg``, ..."""

    def __init__(self, folder: str, options: ExportOptions, weights: Mapping[str, float] | None, place: str) -> None:
        super().__init__(folder, options, weights, place)
        self._shards: dict[str, _Shard] = {}

    def add(self, name: str, sample: Sample) -> None:
        """See the base."""
        shard = self._shards.get(name)
        if shard is None or shard.rows >= SHARD_ROWS or shard.size >= SHARD_BYTES:
            number = 0 if shard is None else shard.number + 1
            self._end(shard)
            Path(self.folder, name).mkdir(exist_ok=True)
            shard = self._shards[name] = _Shard(f"{self.folder}/{name}/shard-{number:06d}.tar", number)
        row = {"id": row_id(sample), "task": sample.task, "messages": swift_messages(sample)}
        shard.write(f"{sample.key}.json", json_bytes(row))
        for number, image in enumerate(sample.images):
            data = image_bytes(image, sample, self.options)
            shard.write(f"{sample.key}.{number:03d}.{image_extension(data)}", data)
            self.images_written += 1
        shard.rows += 1

    def finish(self, drawn: Mapping[str, float]) -> None:
        """Energon's mixture, and the commands that index each part of it."""
        for shard in self._shards.values():
            self._end(shard)
        blend = [{"path": f"./{name}", "weight": part} for name, part in drawn.items()]
        value = {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": {"train": {"blend": blend}}}
        Path(self.folder, "metadataset.yaml").write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
        lines = ["#!/usr/bin/env bash", "# Index the shards for Megatron-Energon.", "set -e", 'cd "$(dirname "$0")"']
        options = "--non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset"
        lines += [f"energon prepare './{name}' {options}" for name in drawn]
        Path(self.folder, "prepare.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @staticmethod
    def _end(shard: _Shard | None) -> None:
        if shard is not None:
            shard.append(b"\0" * 2 * tarfile.BLOCKSIZE)


@dataclass(slots=True)
class _Shard:
    """A tar that is opened for each row only: tasks may be more than files that a process may hold open."""

    path: str
    number: int
    rows: int = 0
    size: int = 0

    def write(self, name: str, data: bytes) -> None:
        """One member."""
        head = tarfile.TarInfo(name)
        head.size = len(data)
        self.append(head.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % tarfile.BLOCKSIZE))

    def append(self, data: bytes) -> None:
        """Bytes at the end."""
        with open(self.path, "ab") as stream:
            stream.write(data)
        self.size += len(data)


FOLDERS: dict[str, type[FolderWriter]] = {
    "llamafactory": _LlamaFactory,
    "swift_tasks": _Swift,
    "webdataset": _Tars,
    "fiftyone": FiftyOneWriter,
}
TASK_FOLDERS = tuple(name for name in FOLDERS if name not in SHOWS_ALL)
"""Those with a part per task."""


@contextmanager
def _made_whole(output: str) -> Iterator[str]:
    """A folder of this machine whose content is at ``output`` when all is written, and nowhere when that fails."""
    filesystem, path = resolve(output)
    _refuse_foreign(filesystem, path, output)
    local = isinstance(filesystem, pafs.LocalFileSystem)
    parent = posixpath.dirname(path) if local else None
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=TEMPORARY, dir=parent)
    try:
        yield scratch
        delete_folder(filesystem, path)
        if local:
            os.chmod(scratch, 0o755)
            os.replace(scratch, path)
            return
        for name in sorted(file_sizes(pafs.LocalFileSystem(), scratch), key=lambda name: (name == CARD, name)):
            pafs.copy_files(f"{scratch}/{name}", f"{path}/{name}", pafs.LocalFileSystem(), filesystem)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _place_of(output: str) -> str:
    """Where the folder will lie on this machine; empty for an object store."""
    filesystem, path = resolve(output)
    return path if isinstance(filesystem, pafs.LocalFileSystem) else ""


def _refuse_foreign(filesystem: pafs.FileSystem, path: str, output: str) -> None:
    """Raise `UserError` for a file, and for a folder with files that are not an earlier export's."""
    if filesystem.get_file_info(path).type == pafs.FileType.File:
        raise UserError(f"{output} is a file, and this format is a folder. Name another.")
    known = {CARD, *(read_json(filesystem, f"{path}/{CARD}") or {}).get("files", ())}
    foreign = sorted(name for name in file_sizes(filesystem, path) if name not in known)
    if foreign:
        raise UserError(
            f"{output} holds files that no export wrote, such as {foreign[0]} ({len(foreign)} in all); they would be "
            "lost. Name another folder."
        )
