"""What a run directory would do next, and about how long that takes. For `raycurate status`.

First what was interrupted, then what is out of date, then the next stage of the way to a coreset that is not there. The
rest of an interrupted stage follows from its own rate, a stale one from what it took before and the rows that it lacks,
a missing one from the formulas (`raycurate.estimate`), where these need no model: a model's configuration takes seconds
to read, and `raycurate estimate RECIPE` does that.
Cost: the manifests that `status` has read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from raycurate.estimate.formulas import cluster_work, rank_work, table_work
from raycurate.estimate.places import this_machine
from raycurate.estimate.rates import rates_here
from raycurate.estimate.work import Work, time_of
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.remedies import commands_again
from raycurate.stages.engine.status import NounStatus

ROWS_PER_CLUSTER = 66
"""Of COINCIDE on LLaVA's 665k rows: a first guess of how many clusters are wanted."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """One thing to do.

    Attributes:
        command: what to type after `raycurate`.
        why: interrupted, stale, or next.
        seconds: about how long; None where that is not known.
    """

    command: str
    why: str
    seconds: float | None


def next_steps(run: Run, found: Sequence[NounStatus]) -> list[NextStep]:
    """What would be done next, most urgent first; nothing while a stage is running."""
    if any(line.state == "running" for line in found):
        return []
    steps = [_resumed(run, line) for line in found if line.state == "interrupted"]
    steps += [step for line in found if line.state == "stale" for step in _again(run, line)]
    if steps:
        return steps
    following = _following(run)
    return [] if following is None else [following]


def _noun(run: Run, line: NounStatus) -> Noun:
    return run.noun(*line.name.split("/", 1))


def _again(run: Run, line: NounStatus) -> list[NextStep]:
    """What makes a stale noun again; the first command takes what it took before, for the rows that are missing."""
    commands = commands_again(_noun(run, line))
    seconds = line.seconds * line.missing / line.rows if line.rows else line.seconds
    return [
        NextStep(command, f"{line.name} is stale", None if number else seconds or None)
        for number, command in enumerate(commands)
    ]


def _resumed(run: Run, line: NounStatus) -> NextStep:
    """The rest at the rate of what is done; of what has not begun the estimate."""
    noun, seconds = _noun(run, line), None
    if line.rows and line.total:
        seconds = line.seconds * max(line.total - line.rows, 0) / line.rows
    else:
        noted = (noun.read_json("work.json") or {}).get("estimated_seconds")
        seconds = None if noted is None else max(0.0, noted - line.seconds)
    return NextStep(commands_again(noun)[-1], f"{line.name} was interrupted", seconds)


def _following(run: Run) -> NextStep | None:
    """The stage on the way to a coreset whose noun is not there; None where all are."""
    samples, features = run.noun("samples").manifest(), run.noun("features").manifest()
    clusters, selection = run.noun("clusters").manifest(), run.noun("selection").manifest()
    if selection is not None or samples is None:
        return None
    if features is None:
        return NextStep(f"extract {run.uri} --model MODEL", "next", None)
    rows, dim = features.rows_out, int(features.metrics["dimension"])
    rates = rates_here()
    if clusters is None:
        count = max(2, rows // ROWS_PER_CLUSTER)
        workers = max(1, (os.cpu_count() or 1) // 2)
        work = cluster_work(rows, dim, count, rates, iterations=50, workers=workers)
        return NextStep(f"cluster {run.uri} --clusters {count}", "next", _seconds(work))
    return NextStep(f"select {run.uri} --ratio 0.2", "next", _seconds(_selecting(run, clusters, rows, dim)))


def _selecting(run: Run, clusters: Manifest, rows: int, dim: int) -> Work:
    """A selection, and the ranking that it makes where there is none."""
    work = table_work(rows, rates_here())
    if any(noun.noun == "ranking" for noun in run.nouns()):
        return work
    return work.plus(rank_work(rows, dim, int(clusters.metrics["clusters"]), rates_here()))


def _seconds(work: Work) -> float:
    return time_of(work, this_machine(float(os.cpu_count() or 1)), rates_here()).seconds
