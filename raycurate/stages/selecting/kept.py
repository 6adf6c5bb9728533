"""``select --keep-selected LABEL``: rows that an earlier selection keeps stay kept, so that a growing coreset stays.

    M = round(ratio N);  H = rows that LABEL keeps and that are not marked;  the method chooses M - H of all others

The method plans over the others alone, as where rows are marked (`selection/remaining.py`): its shares of tasks are
those of what is added, not of the whole. The earlier selection is read as it is, of these samples or of an earlier
state of theirs; that it would be another today does not matter, that it is another makes this one stale.

Cost: a pass that counts, and the keys of the earlier selection in every pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.selection import Goal
from raycurate.stages.engine.growth import earlier_states
from raycurate.stages.engine.lineage import made_from

KEPT_BEFORE = "kept_before"


@dataclass(frozen=True, slots=True)
class KeptBefore:
    """An earlier selection, and its shards."""

    noun: Noun
    shards: int

    def among(self, keys: pa.ChunkedArray, shard: int) -> pa.ChunkedArray:
        """Which rows of a shard it keeps."""
        if shard >= self.shards:
            return pa.chunked_array([pa.repeat(pa.scalar(False), len(keys))])
        rows = self.noun.read_part(shard, ["key", "kept"])
        return pc.is_in(keys, value_set=rows.filter(rows["kept"])["key"].combine_chunks())


def kept_before(run: Run, config: SelectConfig, samples: Manifest) -> tuple[KeptBefore | None, dict[str, str]]:
    """The selection whose rows stay, and what a fingerprint holds of it.

    Raises:
        UserError: none that is finished, the one that is being made, or one of other samples.
    """
    label = config.keep_selected
    if label is None:
        return None, {}
    if label == config.label:
        raise UserError(
            f"'selection/{label}' cannot keep its own rows while it is made anew: give the new one another name, for "
            f"example --label {label}-2 --keep-selected {label}"
        )
    noun = run.noun("selection", label)
    manifest = noun.require("select")
    name = f"samples/{samples.label}"
    known = (samples.fingerprint, *earlier_states(run, samples.description))
    if made_from(manifest.description).get(name) not in known:
        raise UserError(
            f"'selection/{label}' was not made from '{name}' as they are, or were before rows were appended: its rows "
            "cannot be kept. Select anew, without --keep-selected."
        )
    return KeptBefore(noun, manifest.shards), {"kept": manifest.fingerprint}


def count_kept(
    read: Callable[[int], pa.Table],
    each_shard: Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]],
    shards: int,
    column: str,
) -> Counter[str]:
    """Rows by task that stay kept: those that `column` says so of."""

    def count(shard: int) -> dict[str, int]:
        rows = read(shard)
        return dict(Counter(rows.filter(pc.equal(rows[column], KEPT_BEFORE))["task"].to_pylist()))

    tasks: Counter[str] = Counter()
    for counted in each_shard(count, ((shard,) for shard in range(shards))):
        tasks.update(counted)
    return tasks


def check_room(goal: Goal, num_rows: int, kept: int, label: str | None) -> None:
    """Raise `UserError` where the rows that stay are the whole budget or more."""
    if kept and goal.target(num_rows) <= kept:
        told = f"Give a ratio of {least_ratio(num_rows, kept + 1)} or more." if kept < num_rows else "It has them all."
        raise UserError(
            f"'selection/{label}' keeps {kept:,} rows, which stay, and ratio {goal.ratio:g} of {num_rows:,} rows is "
            f"{goal.target(num_rows):,}: no row can be added. {told}"
        )


def least_ratio(num_rows: int, wanted: int) -> str:
    """A ratio of few digits, about the smallest one, that keeps so many rows."""
    shown = (f"{(wanted - 0.495) / num_rows:.{digits}g}" for digits in range(2, 18))
    return next(text for text in shown if round(float(text) * num_rows) >= wanted)
