"""Samples that grow: which earlier state a noun was made from, and whether its parts may stay.

An append (`stages/append.py`) adds shards behind those that are there, and one entry to the list ``appended`` of the
samples' description. The shards before are not touched. So an earlier state is the present description with a shorter
list, and its fingerprint follows from it: nothing else is noted. The rules of `lineage` stay what they are: samples
that have grown have another fingerprint, and what was made from an earlier one is stale.

Only the remedy is another. A stage whose parts follow from their own shard alone begins ``by_shard``: if what is there
is what is asked for but for the samples, and those were in an earlier state, its parts stay, and only the shards behind
them are made. All other stages begin anew.

Cost: a fingerprint for each earlier state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from raycurate.run.manifest import fingerprint_of
from raycurate.run.store import Run

APPENDED = "appended"


def pieces_of(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was appended to samples, in order; empty for others."""
    return list(description.get(APPENDED, ()))


def with_pieces(description: Mapping[str, Any], pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The description of samples with these pieces behind the source that they began with."""
    whole = {name: value for name, value in description.items() if name != APPENDED}
    return {**whole, APPENDED: pieces} if pieces else whole


def earlier_states(run: Run, description: Mapping[str, Any]) -> Iterator[str]:
    """Fingerprints, newest first, that a noun had, or would have had, before its samples grew."""
    pieces = pieces_of(description)
    for count in reversed(range(len(pieces))):
        yield fingerprint_of(with_pieces(description, pieces[:count]))
    for name, now in _samples_read(description):
        parent = run.noun(*name.split("/", 1)).manifest()
        for then in earlier_states(run, parent.description) if parent is not None else ():
            yield fingerprint_of(_as_of(description, now, then))


def first_state(run: Run, description: Mapping[str, Any]) -> str:
    """The fingerprint of a description before its samples grew at all: it stays while they do."""
    return [fingerprint_of(description), *earlier_states(run, description)][-1]


def has_grown(run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether one description of a noun is another with samples in an earlier state."""
    return fingerprint_of(before) in earlier_states(run, now)


def _samples_read(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    read = description.get("made_from", {})
    return [(name, fingerprint) for name, fingerprint in read.items() if name.startswith("samples/")]


def _as_of(description: Mapping[str, Any], now: str, then: str) -> dict[str, Any]:
    """A description that names another fingerprint wherever it names this one."""
    text = json.dumps(description, default=str).replace(f'"{now}"', f'"{then}"')
    return dict(json.loads(text))
