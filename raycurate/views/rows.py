"""Rows of a selection with their questions and answers, a stated sample of those that are asked for.

The sample is the rows with the smallest seeded hash of their key, so it is the same wherever it is asked for. Cost: one
pass over the selection; the samples of the chosen rows only are read, a row group at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.errors import UserError, unknown_name
from raycurate.run.store import Noun, Run
from raycurate.samples.schema import IMAGE_MARK
from raycurate.selection.base import REASONS
from raycurate.selection.keys import key_array, key_hashes
from raycurate.stages.engine.lineage import why_stale
from raycurate.views.diff import finished_selection

COLUMNS = ["key", "source_id", "task", "kept", "cluster", "rank", "score", "reason"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which rows are asked for; None asks for all of a kind."""

    task: str | None = None
    kept: bool | None = None
    reason: str | None = None
    cluster: int | None = None
    limit: int = 20
    seed: int = 0


def chosen_rows(run: Run, label: str, wanted: Wanted) -> tuple[int, list[dict[str, Any]]]:
    """How many rows there are of the kind that is asked for, and a sample of them with their turns and images.

    Raises:
        UserError: no such selection, task, reason or cluster, or its samples were made anew since.
    """
    noun, manifest = finished_selection(run, label)
    tasks = noun.read_table("tasks.parquet", ["task"])["task"].to_pylist()
    if wanted.task is not None and wanted.task not in tasks:
        raise unknown_name("task", wanted.task, tasks)
    if wanted.reason is not None and wanted.reason not in REASONS:
        raise unknown_name("reason", wanted.reason, REASONS)
    if wanted.cluster is not None:
        _check_cluster(noun, wanted.cluster)
    if wanted.limit < 1:
        raise UserError(f"limit is {wanted.limit}; it must be 1 or more")
    total = 0
    best: list[tuple[int, str, int, dict[str, Any]]] = []
    for shard, rows in enumerate(noun.iter_parts(COLUMNS)):
        own = rows.filter(_mask(rows, wanted)) if rows.num_rows else rows
        total += own.num_rows
        hashes = key_hashes(key_array(own["key"]), seed=wanted.seed, purpose="show").tolist() if own.num_rows else []
        places = zip(hashes, own["key"].to_pylist(), [shard] * own.num_rows, range(own.num_rows), strict=True)
        smallest = heapq.nsmallest(wanted.limit, places)
        kept = [(at, key, number, own.slice(place, 1).to_pylist()[0]) for at, key, number, place in smallest]
        best = heapq.nsmallest(wanted.limit, [*best, *kept], key=lambda each: each[:2])
    by_shard: dict[int, list[str]] = {}
    for _, key, shard, _ in best:
        by_shard.setdefault(shard, []).append(key)
    samples = samples_of(run.noun("samples", manifest.description["config"]["samples"]), by_shard)
    if len(samples) < len(best):
        stale = why_stale(noun, manifest)
        told = f": {stale}. {stale.remedy} makes it again" if stale is not None else ""
        raise UserError(f"rows of selection '{label}' are not where they were in the samples{told}")
    return total, [{**row, **samples[key]} for _, key, _, row in best]


def samples_of(samples: Noun, by_shard: Mapping[int, Collection[str]]) -> dict[str, dict[str, Any]]:
    """Key, turns and images of rows by their key, each part read once; without those that are there no longer.

    Args:
        samples: the finished noun.
        by_shard: shard -> keys of its rows, as a selection knows them, which may be older than the samples.
    """
    found: dict[str, dict[str, Any]] = {}
    for shard in sorted(set(by_shard) & set(range(samples.require("ingest").shards))):
        part = samples.read_part(shard, ["key", "messages", "images"])
        own = part.filter(pc.is_in(part["key"], value_set=pa.array(list(by_shard[shard]), pa.string())))
        found |= {row["key"]: row for row in own.to_pylist()}
    return found


def _check_cluster(noun: Noun, cluster: int) -> None:
    """Raise `UserError` for a cluster that the selection does not have."""
    if not noun.filesystem.get_file_info(f"{noun.folder}/clusters.parquet").is_file:
        raise UserError(f"the method of selection '{noun.label}' has no clusters; leave cluster {cluster} out")
    known = noun.read_table("clusters.parquet", ["cluster"])["cluster"].to_pylist()
    if cluster not in known:
        raise UserError(f"there is no cluster {cluster}; those of '{noun.label}' go from {min(known)} to {max(known)}")


def _mask(rows: pa.Table, wanted: Wanted) -> pa.ChunkedArray:
    mask = pc.is_valid(rows["key"])
    for name in ("task", "kept", "reason", "cluster"):
        value = getattr(wanted, name)
        if value is not None:
            mask = pc.and_(mask, pc.fill_null(pc.equal(rows[name], value), False))
    return mask


def first_turns(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The first question and the first answer that say something, without the marks of images."""
    found = {"user": "", "assistant": ""}
    for turn in messages:
        if not found.get(turn["role"], "other"):
            found[turn["role"]] = turn["text"].replace(IMAGE_MARK, "").strip()
    return found["user"], found["assistant"]
