"""What a run directory says of itself: each noun done, stale, running or interrupted. For `raycurate status`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from raycurate.run.manifest import Manifest
from raycurate.run.progress import ALIVE_SECONDS
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.freshness import Outside, why_not_current
from raycurate.stages.table import NOUNS


@dataclass(frozen=True, slots=True)
class NounStatus:
    """One line of ``raycurate status``.

    Attributes:
        name: ``noun/label``.
        state: ``done``, ``stale`` (what it was made from has changed), ``running``, or ``interrupted`` (run the stage
            again to go on).
        rows: rows committed so far.
        total: rows in all, None where it is not known yet.
        quarantined: rejected rows so far.
        seconds: wall clock over all attempts.
        estimated: seconds that were foreseen when it began; None where nothing was.
        sources: rows by source, of samples of several and selections of them.
        why: of a stale noun what has changed, and the commands that make it again, in their order.
        unreached: why it cannot be told whether its source, or another file outside of the run, has changed.
        missing: rows that are to be made again of a stale noun.
        expected: seconds that an experiment was foreseen to take after its first trial.
    """

    name: str
    state: str
    rows: int
    total: int | None
    quarantined: int
    seconds: float
    why: str = ""
    sources: str = ""
    estimated: float | None = None
    unreached: str = ""
    missing: int = 0
    expected: float | None = None


def status(run: Run) -> list[NounStatus]:
    """What is done, running and left, in the order of the data."""
    order = {noun: place for place, noun in enumerate(NOUNS)}
    nouns = sorted(run.nouns(), key=lambda noun: (order.get(noun.noun, len(order)), noun.noun, noun.label))
    outside = Outside()
    return [_status_of(noun, outside) for noun in nouns]


def told_sources(manifest: Manifest) -> str:
    """Rows by source in words; '' for what is not of several sources."""
    metrics = manifest.metrics
    counts = metrics.get("kept_sources") or (metrics.get("sources") if manifest.noun == "samples" else None) or {}
    read, left = metrics.get("sources_read", {}), metrics.get("sources_not_drawn", {})

    def told(name: str) -> str:
        text = f"{name} {counts[name]:,}"
        return f"{text} of {read[name]:,}" if left.get(name) else text

    return ", ".join(map(told, sorted(counts)))


def _status_of(noun: Noun, outside: Outside) -> NounStatus:
    name = f"{noun.noun}/{noun.label}"
    manifest = noun.manifest()
    if manifest is not None:
        rejected = sum(manifest.quarantined.values())
        outdated = why_not_current(noun, manifest, outside)
        why, missing = ("", 0) if outdated is None else (outdated.told, outdated.missing)
        state = "done" if outdated is None else "stale"
        return NounStatus(
            name,
            state,
            manifest.rows_out,
            manifest.rows_in,
            rejected,
            manifest.seconds,
            why,
            told_sources(manifest),
            manifest.estimated_seconds,
            outside.unreached.get(name, ""),
            missing,
            manifest.expected_seconds,
        )
    records = noun.records().values()
    beat = noun.read_json("progress.json") or {}
    alive = beat.get("state") == "running" and time.time() - beat.get("time", 0) < ALIVE_SECONDS
    work = noun.read_json("work.json") or {}
    return NounStatus(
        name=name,
        state="running" if alive else "interrupted",
        rows=sum(record.rows_out for record in records),
        total=beat.get("total") if beat.get("unit") == "rows" else None,
        quarantined=sum(sum(record.quarantined.values()) for record in records),
        seconds=work.get("seconds", 0.0),
        estimated=work.get("estimated_seconds"),
    )
