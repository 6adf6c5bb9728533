"""The cluster gallery: for some clusters, rows that stayed and rows that went, side by side in the method's order.

Shown are the largest clusters, the most transferable, the densest, those that lost most of their rows, and those drawn
by a seeded hash, each once. Of a cluster the first rows in order that are kept and the first that are dropped; rows
without an order by the hash of their keys. Cost: one pass over the selection, then the row groups of the chosen rows.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.report.collect import ClusterFacts
from raycurate.report.thumbnails import thumbnail
from raycurate.run.store import Noun, Run
from raycurate.samples.images import ImageLimits, ImageRoot, accepted_limits
from raycurate.selection.keys import key_array, key_hashes
from raycurate.views.rows import first_turns, samples_of

COLUMNS = ["key", "source_id", "task", "kept", "cluster", "rank", "reason"]
CHARS = 400
TASKS_PER_KIND = 4
"""Tasks that are shown where there are no clusters, for each cluster of a kind that would be."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is shown.

    Attributes:
        per_kind: clusters of each kind.
        per_side: rows kept, and rows dropped, of each cluster or task.
        seed: of the sample.
    """

    per_kind: int = 6
    per_side: int = 6
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """One row: what is asked, what is answered, the picture."""

    key: str
    source_id: str
    task: str
    rank: int | None
    reason: str
    question: str
    answer: str
    picture: str | None
    images: int


@dataclass(frozen=True, slots=True)
class Shelf:
    """Rows of one cluster, or of one task where there are no clusters."""

    name: str
    anchor: str
    why: str
    facts: ClusterFacts | None
    kept: list[Card]
    dropped: list[Card]


def chosen_clusters(facts: Sequence[ClusterFacts], sizes: Sizes) -> dict[int, str]:
    """Cluster -> why it is shown, in the order of the page."""
    drawn = {each.cluster: random.Random(f"{sizes.seed} {each.cluster}").random() for each in facts}
    orders: tuple[tuple[str, Any], ...] = (
        ("among the largest", lambda each: each.size),
        ("among the most transferable", lambda each: _or_least(each.transferability)),
        ("among the densest", lambda each: _or_least(each.density)),
        ("lost most of its rows", lambda each: each.size - each.kept),
        ("drawn", lambda each: drawn[each.cluster]),
    )
    found: dict[int, str] = {}
    for why, value in orders:
        known = [each for each in facts if value(each) > float("-inf") and each.size and each.cluster not in found]
        for each in sorted(known, key=lambda one: (-value(one), one.cluster))[: sizes.per_kind]:
            found[each.cluster] = why
    return found


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None else value


def shelves_of(run: Run, noun: Noun, facts: Sequence[ClusterFacts], tasks: Sequence[str], sizes: Sizes) -> list[Shelf]:
    """The gallery of a selection, by cluster, or by task where it has no clusters."""
    if facts:
        why = chosen_clusters(facts, sizes)
        found = _first_rows(noun, "cluster", list(why), sizes)
        by_cluster = {each.cluster: each for each in facts}
        names: list[tuple[Any, str, str, str, ClusterFacts | None]]
        names = [(each, f"Cluster {each}", f"cluster-{each}", why[each], by_cluster[each]) for each in why]
    else:
        shown = list(tasks)[: TASKS_PER_KIND * sizes.per_kind]
        found = _first_rows(noun, "task", shown, sizes)
        names = [(task, task[:CHARS], f"task-{place}", "", None) for place, task in enumerate(shown)]
    cards = _cards(run, noun, [row for rows in found.values() for row in rows])
    shelves = []
    for value, name, anchor, text, own in names:
        sides = [
            [cards[row["key"]] for row in found.get((value, side), ()) if row["key"] in cards] for side in (True, False)
        ]
        shelves.append(Shelf(name, anchor, text, own, *sides))
    return shelves


def smaller(shelves: Sequence[Shelf], facts: Sequence[ClusterFacts], sizes: Sizes) -> list[Shelf]:
    """What `shelves_of` gives for smaller sizes, from what it gave for larger ones."""
    if facts:
        why = chosen_clusters(facts, sizes)
        # Each kind's smaller choice is among the larger ones of it and of the kinds before it.
        known = {each.facts.cluster: each for each in shelves if each.facts is not None}
        left = [replace(known[cluster], why=text) for cluster, text in why.items()]
    else:
        left = list(shelves)[: TASKS_PER_KIND * sizes.per_kind]
    most = sizes.per_side
    return [replace(each, kept=each.kept[:most], dropped=each.dropped[:most]) for each in left]


def _first_rows(
    noun: Noun, column: str, values: Sequence[Any], sizes: Sizes
) -> dict[tuple[Any, bool], list[dict[str, Any]]]:
    """(value, kept) -> its first rows, each with the shard that it lies in."""
    best: dict[tuple[Any, bool], list[tuple[int, str, dict[str, Any]]]] = {}
    for shard, rows in enumerate(noun.iter_parts(COLUMNS)):
        own = rows.filter(pc.is_in(rows[column], value_set=pa.array(values, rows.schema.field(column).type)))
        if not own.num_rows:
            continue
        hashes = key_hashes(key_array(own["key"]), seed=sizes.seed, purpose="report").tolist()
        for row, number in zip(own.to_pylist(), hashes, strict=True):
            order = number >> 1 if row["rank"] is None else row["rank"]
            heap = best.setdefault((row[column], row["kept"]), [])
            heapq.heappush(heap, (-order, row["key"], {**row, "shard": shard}))
            if len(heap) > sizes.per_side:
                heapq.heappop(heap)
    return {at: [row for _, _, row in sorted(heap, key=lambda each: (-each[0], each[1]))] for at, heap in best.items()}


def _cards(run: Run, noun: Noun, rows: Sequence[dict[str, Any]]) -> dict[str, Card]:
    """Key -> card; none for a row that the samples do not have any more."""
    samples = run.noun("samples", noun.require("select").description["config"]["samples"])
    pictures = pictures_of(samples)
    wanted = {row["key"]: row for row in rows}
    by_shard: dict[int, list[str]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row["key"])
    return {key: card_of(wanted[key], sample, pictures) for key, sample in samples_of(samples, by_shard).items()}


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where the images of samples lie, and what is accepted of one."""

    root: ImageRoot
    limits: ImageLimits


def pictures_of(samples: Noun) -> Pictures:
    """Of finished samples; where the image root is gone pictures are missing, the text is not."""
    ingested = samples.require("ingest").description["config"]
    try:
        root = ImageRoot.of(ingested.get("images"))
    except ValueError:
        root = ImageRoot(None)
    return Pictures(root, accepted_limits(ingested))


def card_of(row: dict[str, Any], sample: dict[str, Any], pictures: Pictures) -> Card:
    """A row of a selection with its sample, which may be one and the same."""
    question, answer = first_turns(sample["messages"])
    picture = thumbnail(sample["images"][0], pictures.root, pictures.limits) if sample["images"] else None
    return Card(
        key=row["key"],
        source_id=(row["source_id"] or "no id")[:CHARS],
        task=row["task"][:CHARS],
        rank=row["rank"],
        reason=row["reason"],
        question=question[:CHARS],
        answer=answer[:CHARS],
        picture=picture,
        images=len(sample["images"]),
    )
