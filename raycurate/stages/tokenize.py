"""``tokens``: the kept rows as token ids with the spans of their answers, what every finetune on them reads.

    samples + selection --tokenise, mask, cut, check images--> tokens/<selection>-<fingerprint>

A row-wise stage that ``finetune`` runs first; it is keyed by the rows, the model's processor and the length limit only,
so finetunes that differ in anything else share it. A random subset of a given size is drawn exactly: the rows of each
shard by a multivariate hypergeometric draw, then which of them, so nothing larger than a shard is ever held.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.errors import UserError
from raycurate.models.source import image_backend
from raycurate.run.manifest import Manifest, ShardRecord, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.samples.schema import QUARANTINE_SCHEMA
from raycurate.stages.engine.growth import first_state
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.rejects import check_rejects, check_some_good
from raycurate.stages.engine.shards import MapShards, map_tasks, names_of, run_missing_shards
from raycurate.stages.table import version_of
from raycurate.stages.workers.fragments import accepted_images, as_samples
from raycurate.stages.workers.windows import windows_of
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TOKENS_SCHEMA

WINDOW_ROWS = 256
ROW_GROUP = 1024
SAMPLE_COLUMNS = ["key", "source_id", "task", "messages", "images", "source_file", "source_row"]


def tokenize(run: Run, config: FinetuneConfig, model_fingerprint: str, map_shards: MapShards = map_tasks) -> Noun:
    """The finished ``tokens`` noun of a finetune's rows, made now or found.

    Raises:
        UserError: there are no rows to train on, or too many of them were rejected.
    """
    samples = run.noun("samples", config.samples)
    sample_manifest = required(samples)
    images = config.images or sample_manifest.description["config"].get("images")
    check_images(samples, sample_manifest, images)
    selection = None if config.selection is None else run.noun("selection", config.selection)
    selection_manifest = None if selection is None else required(selection, of=sample_manifest)
    counts = _rows_per_shard(samples, selection)
    if not counts.sum():
        raise UserError("there are no rows to train on. `raycurate status` shows what the selection kept.")
    quotas = _quotas(counts, config.limit, config.seed)
    description = {
        "stage": "tokenize",
        "stage_version": version_of("tokenize"),
        "config": {
            "max_length": config.max_length,
            "overlong": config.overlong,
            "limit": config.limit,
            "seed": None if config.limit is None else config.seed,
        },
        "inputs": {
            "samples": sample_manifest.fingerprint,
            "selection": None if selection_manifest is None else selection_manifest.fingerprint,
            "model": model_fingerprint,
            "image_backend": image_backend(),
        },
        "made_from": names_of(each for each in (sample_manifest, selection_manifest) if each is not None),
    }
    whole = selection is None and config.limit is None
    name = first_state(run, description) if whole else fingerprint_of(description)
    noun = run.noun("tokens", f"{config.selection or 'all'}-{name[:8]}")
    if noun.is_done(description):
        return noun
    begin(noun, description, by_shard=whole)
    make = functools.partial(_make_shard, samples, selection, noun, config, images, quotas)
    run_missing_shards(
        "tokenize",
        noun,
        make,
        num_shards=sample_manifest.shards,
        total_rows=int(counts.sum() if quotas is None else quotas.sum()),
        strict=config.strict,
        max_tasks=config.max_tasks,
        map_shards=map_shards,
    )
    _finish(noun, samples, config)
    return noun


def _rows_per_shard(samples: Noun, selection: Noun | None) -> np.ndarray:
    """Rows that could be trained on, int64 [shards]."""
    if selection is None:
        records = samples.records()
        return np.array([records[shard].rows_out for shard in sorted(records)], dtype=np.int64)
    records = selection.records()
    return np.array([records[shard].extra["kept"] for shard in sorted(records)], dtype=np.int64)


def _quotas(counts: np.ndarray, limit: int | None, seed: int) -> np.ndarray | None:
    """How many rows of each shard a random subset has; None for all."""
    if limit is None or limit >= counts.sum():
        return None
    return np.random.default_rng(seed).multivariate_hypergeometric(counts, limit, method="marginals")


def _finish(noun: Noun, samples: Noun, config: FinetuneConfig) -> Manifest:
    records = noun.records().values()
    tasks: Counter[str] = Counter()
    for record in records:
        tasks.update(record.extra["tasks"])
    check_rejects("tokenize", noun, config.max_rejected, samples=samples)
    return noun.finish(
        metrics={
            "tasks": dict(sorted(tasks.items())),
            "cut_rows": sum(record.extra["cut_rows"] for record in records),
            "cut_turns": sum(record.extra["cut_turns"] for record in records),
            "tokens": sum(record.extra["tokens"] for record in records),
            "answer_tokens": sum(record.extra["answer_tokens"] for record in records),
            "longest": max(record.extra["longest"] for record in records),
        }
    )


@functools.lru_cache(maxsize=4)
def _tokenizer(model: str, trust_remote_code: bool, max_length: int, overlong: str) -> Any:
    """A worker process keeps the processors that it has loaded."""
    import torch

    from raycurate.encoding.tokens import RowTokenizer
    from raycurate.models.adapter import load_processor
    from raycurate.models.positions import longest_row

    torch.set_num_threads(1)
    processor = load_processor(model, trust_remote_code=trust_remote_code)
    longest = longest_row(model, max_length, trust_remote_code=trust_remote_code)
    return RowTokenizer(processor, max_length=longest, overlong=overlong)


def _make_shard(
    samples: Noun,
    selection: Noun | None,
    noun: Noun,
    config: FinetuneConfig,
    images: str | None,
    quotas: np.ndarray | None,
    shard: int,
) -> ShardRecord:
    """Tokenise the wanted rows of one shard, window by window, and commit them."""
    from raycurate.encoding.tokens import TokenRow

    rows = samples.read_part(shard, SAMPLE_COLUMNS)
    if selection is not None:
        kept = selection.read_part(shard, ["key", "kept"])
        rows = rows.filter(pc.is_in(rows["key"], value_set=kept.filter(kept["kept"])["key"].combine_chunks()))
    if quotas is not None:
        chosen = np.random.default_rng([config.seed, shard]).choice(rows.num_rows, quotas[shard], replace=False)
        rows = rows.take(pa.array(np.sort(chosen)))
    tokenizer = _tokenizer(config.model, config.trust_remote_code, config.max_length, config.overlong)
    good: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    limits = accepted_images(samples)
    for start, stop in windows_of(rows, WINDOW_ROWS, tokenizer.image_bytes, None):
        window = rows.slice(start, stop - start).to_pylist()
        results = tokenizer.tokenize(as_samples(window, images, limits))
        for row, result in zip(window, results, strict=True):
            if isinstance(result, TokenRow):
                good.append(_as_tokens(row, result))
            else:
                rejects.append(_as_reject(row, result.reason, result.detail))
    refused = pa.Table.from_pylist(rejects, schema=QUARANTINE_SCHEMA)
    check_some_good(shard, rows.num_rows, refused, config.max_rejected)
    return noun.commit_part(
        shard,
        pa.Table.from_pylist(good, schema=TOKENS_SCHEMA),
        rows_in=rows.num_rows,
        rejects=refused,
        row_group_rows=ROW_GROUP,
        extra={
            "tasks": dict(Counter(row["task"] for row in good)),
            "cut_rows": sum(row["turns_cut"] > 0 for row in good),
            "cut_turns": sum(row["turns_cut"] for row in good),
            "tokens": sum(row["length"] for row in good),
            "answer_tokens": sum(int(np.diff(row["spans"].reshape(-1, 2)).sum()) for row in good),
            "longest": max((row["length"] for row in good), default=0),
        },
    )


def _as_tokens(row: dict[str, Any], result: Any) -> dict[str, Any]:
    return {
        "key": row["key"],
        "task": row["task"],
        "length": len(result.ids_T),
        "input_ids": result.ids_T,
        "spans": result.spans_A2.reshape(-1),
        "images": row["images"][: result.num_images],
        "turns_cut": result.turns_cut,
    }


def _as_reject(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("key", "source_id", "source_file", "source_row")},
        "reason": reason,
        "detail": detail,
        "excerpt": " ".join(message["text"] for message in row["messages"])[:500],
    }
