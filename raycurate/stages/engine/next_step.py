"""What a run directory would do next, and about how long that takes. For `raycurate status`.

First what was interrupted, then what is out of date, then the next stage of the way to a coreset that is not there. The
rest of an interrupted stage follows from its own rate, a stale one from what it took before, a missing one from the
formulas (`raycurate.estimate`), where these need no model: a model's configuration takes seconds to read, and
`raycurate estimate RECIPE` does that.
Cost: the manifests that `status` has read.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from raycurate.estimate.formulas import cluster_work, rank_work, table_work
from raycurate.estimate.places import this_machine
from raycurate.estimate.rates import rates_here
from raycurate.estimate.work import Work, time_of
from raycurate.run.store import Manifest, Noun, Run
from raycurate.stages.engine.names import command_for
from raycurate.stages.engine.status import NounStatus
from raycurate.stages.table import STAGES

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
    stale = [line for line in found if line.state == "stale"]
    steps += [NextStep(_command(run, line), f"{line.name} is stale", line.seconds or None) for line in stale]
    if steps:
        return steps
    following = _following(run)
    return [] if following is None else [following]


def _noun(run: Run, line: NounStatus) -> Noun:
    return run.noun(*line.name.split("/", 1))


def _command(run: Run, line: NounStatus) -> str:
    """The command with the settings that the noun was begun with: with others it would be refused, or be another."""
    noun = _noun(run, line)
    command = command_for(noun)
    if run.uri in command:
        return command
    stage, _, label = command.partition(" ")
    settings = _settings(noun, stage)
    if noun.noun == "samples":
        source = shlex.quote(settings.pop("source", "SOURCE"))
        command = f"{stage} {source} --out {shlex.quote(run.uri)} {label.removeprefix('MORE ')}".strip()
    else:
        command = f"{stage} {shlex.quote(run.uri)} {label}".strip()
    return " ".join((command, *(_option(stage, name, value) for name, value in settings.items())))


def _settings(noun: Noun, stage: str) -> dict[str, str]:
    """The settings of a noun that its stage's defaults do not have, as text."""
    description = (noun.read_json("work.json") or {}).get("description", {})
    if stage not in STAGES or description.get("stage") != stage:
        return {}
    fields = STAGES[stage].load_config().model_fields
    told = {}
    for name, value in (description.get("config") or {}).items():
        if name in fields and (fields[name].is_required() or value != _default(fields[name])):
            told[name] = value if isinstance(value, str) else json.dumps(value)
    return told


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else to_jsonable_python(info.get_default(call_default_factory=True))


def _option(stage: str, name: str, value: str) -> str:
    kind = STAGES[stage].load_config()
    if kind.model_fields[name].is_required():
        return f"--{name.replace('_', '-')} {shlex.quote(value)}"
    setting = f"{name}={value}"
    return f"--set {shlex.quote(setting)}"


def _resumed(run: Run, line: NounStatus) -> NextStep:
    """The rest at the rate of what is done; of what has not begun the estimate."""
    seconds: float | None = None
    if line.rows and line.total:
        seconds = line.seconds * max(line.total - line.rows, 0) / line.rows
    else:
        noted = (_noun(run, line).read_json("work.json") or {}).get("estimated_seconds")
        seconds = None if noted is None else max(0.0, noted - line.seconds)
    return NextStep(_command(run, line), f"{line.name} was interrupted", seconds)


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
