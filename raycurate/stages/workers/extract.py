"""The workers of ``extract``: loader tasks that make batches, actors that run the model, the merge of a shard.

A loader turns one shard into batches, window by window; each batch travels as one Arrow row of bytes. An actor answers
with a fragment file. The merge puts the fragments of a shard in the order of its samples and commits the part.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raycurate.config import ExtractConfig
from raycurate.features.rows import features_column, features_of_table, with_row_facts
from raycurate.run.manifest import ShardRecord
from raycurate.run.store import Noun
from raycurate.stages.engine.actor_pool import line_of
from raycurate.stages.engine.model_facts import ModelFacts
from raycurate.stages.engine.rejects import check_some_good
from raycurate.stages.workers.fragments import (
    SOURCE_COLUMNS,
    ModelThread,
    delete_fragments,
    lines_of,
    loaded_windows,
    read_fragments,
    rejects_of,
    write_fragment,
)
from raycurate.stages.workers.preparers import preparer_of

if TYPE_CHECKING:
    from raycurate.encoding.batch import PreparedBatch

BATCH_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("start", pa.int32()),
        ("window", pa.int32()),
        ("batch", pa.int32()),
        ("batches", pa.int32()),
        ("windows", pa.int32()),
        ("failures", pa.string()),
        ("payload", pa.large_binary()),
    ]
)


def load_shards(
    samples: Noun, config: ExtractConfig, facts: ModelFacts, images: str | None, table: pa.Table
) -> Iterator[pa.Table]:
    """Loader task: read one shard window by window, decode, tokenise, pack; one row per batch."""
    from raycurate.encoding.prepare import Preparer

    preparer = preparer_of(Preparer, config.model, config, facts.dtype)
    for place, window in loaded_windows(samples, config, facts.image_bytes, images, table):
        prepared = preparer.prepare(window)
        failures = [[place["start"] + f.row, f.key, f.reason, f.detail] for f in prepared.failures]
        yield from lines_of(place, prepared.batches, functools.partial(_packed, failures), BATCH_SCHEMA)


def _packed(failures: list[list[Any]], number: int, batch: PreparedBatch | None) -> dict[str, Any]:
    """The columns of a batch; the failures of its window travel with the first one."""
    return {
        "failures": json.dumps(failures if number == 0 else []),
        "payload": None if batch is None else batch.to_bytes(),
    }


class ExtractionActor:
    """Actor: the model on its device; a batch in, a fragment file and a line of counts out."""

    def __init__(self, noun: Noun, config: ExtractConfig, facts: ModelFacts, on_gpu: bool) -> None:
        from raycurate.features.extractor import ActivationExtractor
        from raycurate.models.adapter import load_vlm

        self.thread = ModelThread("extract", on_gpu, config.threads)
        vlm = self.thread.run(
            load_vlm,
            config.model,
            device=self.thread.device,
            dtype=facts.dtype.removeprefix("torch."),
            trust_remote_code=config.trust_remote_code,
        )
        self.extractor = ActivationExtractor(vlm, facts.layers, config.variant)
        self.noun = noun

    def __call__(self, table: pa.Table) -> pa.Table:
        lines = [self._extract(row) for row in table.to_pylist()]
        return pa.Table.from_pylist(lines)

    def _extract(self, row: dict[str, Any]) -> dict[str, Any]:
        from raycurate.encoding.batch import PreparedBatch

        dimension = self.extractor.feature_dim
        positions: list[int] = []
        keys: list[str] = []
        reasons: list[str | None] = []
        details: list[str | None] = []
        features_ND = np.zeros((0, dimension), dtype=np.float16)
        if row["payload"] is not None:
            result = self.thread.run(self.extractor.extract, PreparedBatch.from_bytes(row["payload"]))
            start = row["start"]
            positions += [start + r for r in result.rows]
            keys += result.keys
            reasons += result.reasons
            details += result.details
            features_ND = result.features_ND
        for position, key, reason, detail in json.loads(row["failures"]):
            positions.append(position)
            keys.append(key)
            reasons.append(reason)
            details.append(detail)
        missing = len(positions) - len(features_ND)
        features_ND = np.concatenate([features_ND, np.zeros((missing, dimension), dtype=np.float16)])
        fragment = pa.table(
            {
                "row": pa.array(positions, pa.int32()),
                "key": pa.array(keys, pa.string()),
                "reason": pa.array(reasons, pa.string()),
                "detail": pa.array(details, pa.string()),
                "features": features_column(features_ND),
            }
        )
        write_fragment(self.noun, row, fragment)
        return line_of(row, len(positions))


def merge_shard(samples: Noun, noun: Noun, max_rejected: float, shard: int, batches: dict[int, int]) -> ShardRecord:
    """Put the fragments of one shard together, in the order of its samples, and commit them."""
    merged = read_fragments(noun, shard, batches)
    order = np.argsort(merged["row"].to_numpy(), kind="stable")
    source = samples.read_part(shard, SOURCE_COLUMNS)
    rows = merged["row"].to_numpy()[order]
    assert np.array_equal(rows, np.arange(source.num_rows)), f"rows of shard {shard} were lost or came twice"
    ok_N = merged["reason"].is_null().to_numpy()[order]
    features_ND = features_of_table(merged)[order[ok_N]]
    good, bad = np.flatnonzero(ok_N), np.flatnonzero(~ok_N)
    table = pa.table({"key": source["key"].take(pa.array(good)), "features": features_column(features_ND)})
    table = with_row_facts(table)
    failed = merged.take(pa.array(order[bad]))
    rejects = rejects_of(source, bad, failed["reason"].to_pylist(), failed["detail"].to_pylist())
    check_some_good(shard, source.num_rows, rejects, max_rejected)
    record = noun.commit_part(shard, table, rows_in=source.num_rows, rejects=rejects, compression="none")
    delete_fragments(noun, shard, batches)
    return record
