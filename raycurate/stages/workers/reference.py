"""The workers of the score ``reference``: a drawn part of each task, with its questions and without.

A loader prepares the drawn rows of a shard that have an image in two forms, as they are and with their questions left
out (``token_batches.without_questions``); the actor is that of the token losses. The merge writes one row for each
sample: of the reference those with ``loss``, ``loss_unasked`` and their quotient ``irs``, null elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import ScoreConfig
from raycurate.encoding.conversation import count_marks
from raycurate.run.manifest import ShardRecord
from raycurate.run.store import Noun
from raycurate.selection.base import Plan
from raycurate.selection.reference import IrsSums, in_reference
from raycurate.stages.engine.model_facts import ModelFacts
from raycurate.stages.engine.rejects import check_some_good
from raycurate.stages.workers.fragments import (
    SOURCE_COLUMNS,
    delete_fragments,
    loaded_windows,
    read_fragments,
    rejects_of,
)
from raycurate.stages.workers.preparers import preparer_of
from raycurate.stages.workers.score import NON_FINITE, Failure, score_lines


def load_reference(
    samples: Noun, config: ScoreConfig, facts: ModelFacts, images: str | None, drawn: Plan, table: pa.Table
) -> Iterator[pa.Table]:
    """Loader task: the drawn rows of one shard as batches for the model, each in both forms."""
    from raycurate.encoding.token_batches import AnswerPreparer, without_questions

    preparer = preparer_of(AnswerPreparer, config.model, config, facts.dtype)
    read = functools.partial(_read_drawn, drawn)
    for place, window in loaded_windows(samples, config, facts.image_bytes, images, table, read):
        made: list[tuple[bool, Any]] = []
        failures: list[tuple[bool, Failure]] = []
        for unasked in (False, True):
            rows = [without_questions(sample) for sample in window] if unasked else window
            batches, rejects = preparer.prepare_answers(rows)
            made += [(unasked, batch) for batch in batches]
            failures += [(unasked, (place["start"] + r.position, r.reason, r.detail)) for r in rejects]
        yield from score_lines(place, made, failures)


def _read_drawn(drawn: Plan, samples: Noun, shard: int) -> pa.Table:
    rows = samples.read_part(shard, ["key", "task", "messages", "images"])
    return rows.filter(pa.array(_chosen(drawn, rows)))


def _chosen(drawn: Plan, rows: pa.Table) -> np.ndarray:
    """Which rows are of the reference and show an image, bool [N]."""
    shows_N = np.array([count_marks(messages) > 0 for messages in rows["messages"].to_pylist()], dtype=bool)
    return in_reference(drawn, rows) & shows_N


def merge_reference(
    samples: Noun, noun: Noun, drawn: Plan, max_rejected: float, shard: int, batches: dict[int, int]
) -> ShardRecord:
    """Commit one shard; its record has the sums of the IRS by task."""
    source = samples.read_part(shard, [*SOURCE_COLUMNS, "task"])
    chosen = np.flatnonzero(_chosen(drawn, source))
    fragments = read_fragments(noun, shard, batches)
    losses = {name: np.full(source.num_rows, np.nan) for name in ("loss", "loss_unasked")}
    told: dict[int, tuple[str, str | None]] = {}
    for row in fragments.to_pylist():
        at = int(chosen[row["row"]])
        losses["loss_unasked" if row["blind"] else "loss"][at] = np.nan if row.get("loss") is None else row["loss"]
        if row["reason"] is not None:
            told[at] = (row["reason"], row["detail"])
    with np.errstate(divide="ignore", invalid="ignore"):
        irs_N = losses["loss"] / losses["loss_unasked"]
    for at in chosen[~np.isfinite(irs_N[chosen])].tolist():
        told.setdefault(at, (NON_FINITE, None))
    bad = np.array(sorted(told), dtype=np.int64)
    rejects = rejects_of(source, bad, [told[at][0] for at in bad.tolist()], [told[at][1] for at in bad.tolist()])
    check_some_good(shard, source.num_rows, rejects, max_rejected)
    flags = np.zeros(source.num_rows, dtype=bool)
    flags[chosen] = True
    good = pa.array(~np.isin(np.arange(source.num_rows), bad))
    table = pa.table(
        {
            "key": source["key"],
            "reference": pa.array(flags),
            **{name: pa.array(values_N, pa.float32(), from_pandas=True) for name, values_N in losses.items()},
            "irs": pa.array(irs_N, pa.float32(), from_pandas=True),
        }
    ).filter(good)
    sums = IrsSums.of(pa.table({"task": source["task"].filter(good), "irs": table["irs"]}))
    extra = {"irs_units": dict(sums.units), "irs_rows": dict(sums.rows)}
    record = noun.commit_part(shard, table, rows_in=source.num_rows, rejects=rejects, extra=extra)
    delete_fragments(noun, shard, batches)
    return record
