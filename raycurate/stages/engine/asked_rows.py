"""Which rows of a test set `evaluate` asks: all, or the first by a hash of their keys, in all or of each task."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raycurate.errors import unknown_name
from raycurate.evaluation.config import EvaluateConfig
from raycurate.run.store import Noun


def key_hash(key: str) -> str:
    """The place of a key in the order that a subset of the test rows is taken in."""
    return hashlib.blake2b(key.encode(), digest_size=16, person=b"raycurate-test").hexdigest()


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Which rows of a test set are asked: those up to a key hash.

    Attributes:
        last: the same for all tasks; None: no bound.
        by_task: of each task; a task that is not named is not asked. None: all tasks.
    """

    last: str | None = None
    by_task: Mapping[str, str] | None = None

    def holds(self, key: str, task: str) -> bool:
        """Whether a row is asked."""
        last = self.last if self.by_task is None else self.by_task.get(task, "")
        return last is None or key_hash(key) <= last


def wanted_rows(samples: Noun, shard: int, wanted: AskedRows, columns: Sequence[str]) -> pa.Table:
    """The wanted rows of a shard; `key` and `task` are among the columns."""
    rows = samples.read_part(shard, list(columns))
    if wanted == AskedRows():
        return rows
    pairs = zip(rows["key"].to_pylist(), rows["task"].to_pylist(), strict=True)
    return rows.filter(pa.array([wanted.holds(key, task) for key, task in pairs], pa.bool_()))


def asked_rows(samples: Noun, config: EvaluateConfig) -> tuple[int, AskedRows]:
    """How many rows of the test set are asked, and which."""
    manifest = samples.require("ingest")
    if config.max_rows is not None and config.max_rows < manifest.rows_out:
        return config.max_rows, AskedRows(last=_first_hashes(samples, config.max_rows)[""][-1])
    if config.max_rows_per_task is None and config.tasks is None:
        return manifest.rows_out, AskedRows()
    for task in config.tasks or ():
        if task not in manifest.metrics["tasks"]:
            raise unknown_name(f"task of samples/{samples.label}", task, manifest.metrics["tasks"])
    chosen = config.tasks or tuple(manifest.metrics["tasks"])
    hashes = _first_hashes(samples, config.max_rows_per_task or manifest.rows_out, chosen)
    return sum(map(len, hashes.values())), AskedRows(by_task={task: own[-1] for task, own in hashes.items()})


def _first_hashes(samples: Noun, rows: int, tasks: Collection[str] | None = None) -> dict[str, list[str]]:
    """The first key hashes of each of these tasks, ascending; without tasks of all rows, under ''."""
    found: dict[str, list[str]] = {}
    for part in samples.iter_parts(["key", "task"]):
        for key, task in zip(part["key"].to_pylist(), part["task"].to_pylist(), strict=True):
            if tasks is None or task in tasks:
                found.setdefault("" if tasks is None else task, []).append(key_hash(key))
        found = {task: sorted(own)[:rows] for task, own in found.items()}
    return found
