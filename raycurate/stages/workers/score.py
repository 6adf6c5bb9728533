"""The workers of ``score``: loader tasks, the actors of the model and of CLIP, the merge of a shard into its nouns.

A batch is `seen` or `blind` (the same answers without the image). Fragments hold all columns of the pass; the merge
judges each noun's rows by that noun's own columns.
"""

from __future__ import annotations

import abc
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.config import ScoreConfig
from raycurate.encoding.conversation import count_marks
from raycurate.features.rows import features_column, features_of_table, with_row_facts
from raycurate.run.manifest import ShardRecord
from raycurate.run.store import Noun
from raycurate.stages.engine.actor_pool import PLACE, line_of
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

TOKEN_LOSSES = "token_losses"
PASS_EMBEDDINGS = ("last_token", "mean_token", "weighted_token", "visual", "attended")
OF_IMAGES, ATTENDED, ATTENDED_LENGTH = ("visual", "attended"), "attended", "attended_length"
GRADIENT_NORMS, GRADIENT_SKETCHES = "gradients", "gradient_sketch"
CLIP_SCORE, CLIP_EMBEDDING = "clip", "clip_embedding"
NON_FINITE = "non_finite_score"
NUMBERS = ("loss", "el2n", "aum", "answer_tokens")
BATCH_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in PLACE),
        ("start", pa.int32()),
        ("blind", pa.bool_()),
        ("failures", pa.string()),
        ("payload", pa.large_binary()),
    ]
)
Failure = tuple[int, str, str]
Nouns = Mapping[str, Noun]


# loaders


def load_rows(
    samples: Noun, config: ScoreConfig, facts: ModelFacts, images: str | None, losses: bool, table: pa.Table
) -> Iterator[pa.Table]:
    """Loader task: one shard's rows as batches for the model, and their blind forms where losses are wanted."""
    from raycurate.encoding.token_batches import AnswerPreparer

    preparer = preparer_of(AnswerPreparer, config.model, config, facts.dtype)
    for place, window in loaded_windows(samples, config, facts.image_bytes, images, table):
        made: list[tuple[bool, Any]] = []
        failures: list[tuple[bool, Failure]] = []
        for blind in (False, True) if losses and config.blind else (False,):
            batches, rejects = preparer.prepare_answers(window, blind=blind)
            made += [(blind, batch) for batch in batches]
            failures += [(blind, (place["start"] + r.position, r.reason, r.detail)) for r in rejects]
        del batches
        yield from score_lines(place, made, failures)


@functools.lru_cache(maxsize=2)
def _clip_preparer(model: str, trust_remote_code: bool, limits: Any, rows: int, dtype: str) -> Any:
    import torch

    from raycurate.features.clip import ClipPreparer, load_clip_processor

    torch.set_num_threads(1)
    return ClipPreparer(
        load_clip_processor(model, trust_remote_code=trust_remote_code),
        max_tokens=limits.max_tokens,
        pad_to_max=limits.pad_to_max,
        max_rows=rows,
        dtype=getattr(torch, dtype.removeprefix("torch.")),
    )


def load_clip(
    samples: Noun, config: ScoreConfig, facts: ModelFacts, limits: Any, images: str | None, table: pa.Table
) -> Iterator[pa.Table]:
    """Loader task: one shard's rows as batches for CLIP; `limits` are `features.clip.ClipFacts`."""
    assert config.clip is not None, "checked by the stage"
    preparer = _clip_preparer(config.clip, config.trust_remote_code, limits, config.clip_rows, facts.dtype)
    for place, window in loaded_windows(samples, config, facts.image_bytes, images, table):
        batches, rejects = preparer.prepare(window)
        failures = [(False, (place["start"] + r.row, r.reason, r.detail)) for r in rejects]
        yield from score_lines(place, [(False, batch) for batch in batches], failures)


def score_lines(
    place: Mapping[str, int], batches: list[tuple[bool, Any]], failures: Sequence[tuple[bool, Failure]]
) -> Iterator[pa.Table]:
    """One Arrow row per batch of a window; its failures travel with the first one."""

    def packed(number: int, made: tuple[bool, Any] | None) -> dict[str, Any]:
        blind, batch = made or (False, None)
        return {
            "blind": blind,
            "failures": json.dumps(failures if number == 0 else []),
            "payload": None if batch is None else batch.to_bytes(),
        }

    return lines_of(place, batches, packed, BATCH_SCHEMA)


# actors


class _Actor(abc.ABC):
    """What both actors do with a batch's numbers."""

    def __init__(self, nouns: Nouns, config: ScoreConfig, on_gpu: bool) -> None:
        self.fragments = next(iter(nouns.values()))
        self.config = config
        self.thread = ModelThread("score", on_gpu, config.threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._make(row) for row in table.to_pylist()])

    def _make(self, row: dict[str, Any]) -> dict[str, Any]:
        parts: list[pa.Table] = []
        if row["payload"] is not None:
            positions, columns, reasons, details = self.numbers(row["payload"], row["blind"])
            start = row["start"]
            found = {"row": pa.array([start + p for p in positions], pa.int32())}
            found |= {"blind": pa.array([row["blind"]] * len(positions), pa.bool_())}
            found |= {"reason": pa.array(list(reasons), pa.string()), "detail": pa.array(list(details), pa.string())}
            parts.append(pa.table(found | {name: _column(values) for name, values in columns.items()}))
        failures = json.loads(row["failures"])
        parts.append(
            pa.table(
                {
                    "row": pa.array([f[0] for _, f in failures], pa.int32()),
                    "blind": pa.array([blind for blind, _ in failures], pa.bool_()),
                    "reason": pa.array([f[1] for _, f in failures], pa.string()),
                    "detail": pa.array([f[2] for _, f in failures], pa.string()),
                }
            )
        )
        fragment = pa.concat_tables(parts, promote_options="default")
        write_fragment(self.fragments, row, fragment)
        return line_of(row, 0 if row["blind"] else fragment.num_rows)

    @abc.abstractmethod
    def numbers(
        self, payload: bytes, blind: bool
    ) -> tuple[Sequence[int], dict[str, np.ndarray], Sequence[str | None], Sequence[str | None]]:
        """Rows of the window, their columns, and a reason and detail for each, None where it has its numbers."""


def _column(values: np.ndarray) -> pa.Array:
    return features_column(values) if values.ndim == 2 else pa.array(values)


class ScoringActor(_Actor):
    """Actor: the model on its device; a batch in, a fragment and a line of counts out."""

    def __init__(self, nouns: Nouns, config: ScoreConfig, facts: ModelFacts, on_gpu: bool) -> None:
        super().__init__(nouns, config, on_gpu)
        from raycurate.features.gradient_sketches import GradientSketcher
        from raycurate.features.token_scores import TokenScorer
        from raycurate.models.adapter import load_vlm

        vlm = self.thread.run(
            load_vlm,
            config.model,
            device=self.thread.device,
            dtype=facts.dtype.removeprefix("torch."),
            trust_remote_code=config.trust_remote_code,
        )
        embeddings = tuple(name for name in PASS_EMBEDDINGS if name in nouns)
        gradients = None
        if {GRADIENT_NORMS, GRADIENT_SKETCHES} & set(nouns):
            gradients = GradientSketcher(vlm, layers=config.gradient_layers, width=config.gradient_width)
        own = TokenScorer(vlm, losses=TOKEN_LOSSES in nouns, embeddings=embeddings, gradients=gradients)
        self.scorers = {False: own}
        if TOKEN_LOSSES in nouns and config.blind:
            self.scorers[True] = TokenScorer(vlm, losses=True, embeddings=())

    def numbers(
        self, payload: bytes, blind: bool
    ) -> tuple[Sequence[int], dict[str, np.ndarray], Sequence[str | None], Sequence[str | None]]:
        """Token losses, embeddings and gradients."""
        from raycurate.encoding.batch import PreparedBatch

        batch = PreparedBatch.from_bytes(payload)
        made = self.thread.run(self.scorers[blind].score, batch)
        return batch.rows, made.columns, made.reasons, made.details


class ClipActor(_Actor):
    """Actor: the CLIP model on its device; a batch in, a fragment and a line of counts out."""

    def __init__(self, nouns: Nouns, config: ScoreConfig, facts: ModelFacts, on_gpu: bool) -> None:
        super().__init__(nouns, config, on_gpu)
        from raycurate.features.clip import ClipScorer

        assert config.clip is not None, "checked by the stage"
        self.scorer = self.thread.run(
            ClipScorer,
            config.clip,
            device=self.thread.device,
            dtype=facts.dtype.removeprefix("torch."),
            trust_remote_code=config.trust_remote_code,
        )

    def numbers(
        self, payload: bytes, blind: bool
    ) -> tuple[Sequence[int], dict[str, np.ndarray], Sequence[str | None], Sequence[str | None]]:
        """Scores and embeddings of image and instruction."""
        from raycurate.features.clip import ClipBatch

        assert not blind, "CLIP has no blind batches"
        batch = ClipBatch.from_bytes(payload)
        return batch.rows, self.thread.run(self.scorer.score, batch), [None] * len(batch.rows), [None] * len(batch.rows)


# merges


def dimension_of(output: str, config: ScoreConfig, facts: ModelFacts) -> int:
    """Numbers in a row of an output that is a feature."""
    return config.gradient_width**2 if output == GRADIENT_SKETCHES else facts.dimension


class _Rows:
    """The merged rows of a shard, in the order of its samples."""

    def __init__(self, samples: Noun, fragments: pa.Table, config: ScoreConfig, facts: ModelFacts, shard: int) -> None:
        self.config, self.facts, self.max_rejected = config, facts, config.max_rejected
        self.source = samples.read_part(shard, SOURCE_COLUMNS)
        blind_N = fragments["blind"].to_numpy()
        seen = fragments.filter(pa.array(~blind_N))
        self.seen = seen.take(pa.array(np.argsort(seen["row"].to_numpy(), kind="stable")))
        self.blind = fragments.filter(pa.array(blind_N))
        rows_N = self.seen["row"].to_numpy()
        assert np.array_equal(rows_N, np.arange(self.source.num_rows)), f"rows of shard {shard} were lost or came twice"
        self.reasons = np.array(self.seen["reason"].to_pylist(), dtype=object)
        self.details = np.array(self.seen["detail"].to_pylist(), dtype=object)

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, NaN where a row has none."""
        if name not in self.seen.column_names:
            return np.full(self.source.num_rows, np.nan)
        return self.seen[name].cast(pa.float64()).to_numpy()

    def has_image(self) -> np.ndarray:
        """Which rows show an image, bool [N]."""
        return np.array([count_marks(messages) > 0 for messages in self.source["messages"].to_pylist()], dtype=bool)

    def flags(self, name: str) -> pa.Array:
        """A column of truth values, null where a row has none."""
        if name not in self.seen.column_names:
            return pa.nulls(self.source.num_rows, pa.bool_())
        return self.seen[name].combine_chunks()

    def features(self, name: str) -> np.ndarray:
        """An embedding column, float16 [N, D]; zero where a row has none."""
        features_ND = np.zeros((self.source.num_rows, dimension_of(name, self.config, self.facts)), dtype=np.float16)
        good = self.seen[name].is_valid().to_numpy() if name in self.seen.column_names else np.zeros(0, dtype=bool)
        if not good.any():
            return features_ND
        features_ND[good] = features_of_table(self.seen.filter(pa.array(good)), name)
        return features_ND

    def commit(
        self, noun: Noun, shard: int, columns: Mapping[str, pa.Array], bad_N: np.ndarray, *, compression: str = "zstd"
    ) -> ShardRecord:
        """Commit one noun's part; `bad_N` are rows whose numbers are not finite, beside those that failed before."""
        reasons = np.where((self.reasons == None) & bad_N, NON_FINITE, self.reasons)  # noqa: E711 - elementwise
        failed = np.flatnonzero(reasons != None)  # noqa: E711
        good_N = pa.array(reasons == None)  # noqa: E711
        rejects = rejects_of(self.source, failed, reasons[failed].tolist(), self.details[failed].tolist())
        check_some_good(shard, self.source.num_rows, rejects, self.max_rejected)
        table = pa.table({"key": self.source["key"], **columns}).filter(good_N)
        if "features" in columns:
            table = with_row_facts(table)
        rows = self.source.num_rows
        return noun.commit_part(shard, table, rows_in=rows, rejects=rejects, compression=compression)


def merge_scores(
    samples: Noun, nouns: Nouns, config: ScoreConfig, facts: ModelFacts, shard: int, batches: dict[int, int]
) -> ShardRecord:
    """Commit one shard of every noun that the pass makes; the record of the one that lost most rows."""
    fragments = next(iter(nouns.values()))
    rows = _Rows(samples, read_fragments(fragments, shard, batches), config, facts, shard)
    records = [_commit_output(rows, noun, shard, name) for name, noun in nouns.items()]
    delete_fragments(fragments, shard, batches)
    return max(records, key=lambda record: sum(record.quarantined.values()))


def _commit_output(rows: _Rows, noun: Noun, shard: int, name: str) -> ShardRecord:
    if name == TOKEN_LOSSES:
        return _commit_losses(rows, noun, shard, rows.config.blind)
    if name == GRADIENT_NORMS:
        norm_N = rows.numbers("gradient_norm")
        return rows.commit(noun, shard, {"gradient_norm": pa.array(norm_N, pa.float32())}, ~np.isfinite(norm_N))
    return _commit_features(rows, noun, shard, name)


def _commit_features(rows: _Rows, noun: Noun, shard: int, column: str) -> ShardRecord:
    features_ND = rows.features(column)
    bad_N = ~np.isfinite(features_ND).all(axis=1) | ~features_ND.any(axis=1)
    columns: dict[str, pa.Array] = {"features": features_column(features_ND)}
    if column in OF_IMAGES:  # a row without an image has none, which is no fault of its own
        bad_N &= rows.has_image() | ~np.isfinite(features_ND).all(axis=1)
    if column == ATTENDED:
        length_N = rows.numbers(ATTENDED_LENGTH)
        bad_N |= ~np.isfinite(length_N)
        columns["length"] = pa.array(length_N, pa.float32())
    return rows.commit(noun, shard, columns, bad_N, compression="none")


def _commit_losses(rows: _Rows, noun: Noun, shard: int, blind: bool) -> ShardRecord:
    """Token losses; a row whose blind form fails is rejected as a whole."""
    numbers = {name: rows.numbers(name) for name in NUMBERS}
    bad_N = ~np.all([np.isfinite(values_N) for values_N in numbers.values()], axis=0)
    blind_N = np.full(len(bad_N), np.nan)
    if blind:
        at = rows.blind["row"].to_numpy()
        losses = rows.blind["loss"] if "loss" in rows.blind.column_names else pa.nulls(len(at), pa.float64())
        blind_N[at] = losses.cast(pa.float64()).to_numpy(zero_copy_only=False) if len(at) else 0.0
        bad_N[at] |= ~np.isfinite(blind_N[at])
    columns = {
        "loss": pa.array(numbers["loss"], pa.float32()),
        "loss_blind": pa.array(blind_N, pa.float32(), from_pandas=True),
        "el2n": pa.array(numbers["el2n"], pa.float32()),
        "aum": pa.array(numbers["aum"], pa.float32()),
        "answer_tokens": pa.array(np.nan_to_num(numbers["answer_tokens"]).astype(np.int32)),
    }
    return rows.commit(noun, shard, columns, bad_N)


def merge_clip(
    samples: Noun, nouns: Nouns, config: ScoreConfig, facts: ModelFacts, shard: int, batches: dict[int, int]
) -> ShardRecord:
    """Commit one shard of the CLIP scores and embeddings that are wanted."""
    fragments = next(iter(nouns.values()))
    rows = _Rows(samples, read_fragments(fragments, shard, batches), config, facts, shard)
    features_ND = rows.features("embedding")
    # A NaN of the network shows in the embedding; a score that is NaN otherwise says that there is no image.
    bad_N = ~np.isfinite(features_ND).all(axis=1) | ~features_ND.any(axis=1)
    records = []
    for name, noun in nouns.items():
        if name == CLIP_EMBEDDING:
            records.append(_commit_features(rows, noun, shard, "embedding"))
            continue
        columns = {
            "clip_score": pa.array(rows.numbers("clip_score"), pa.float32(), from_pandas=True),
            "has_image": rows.flags("has_image"),
        }
        records.append(rows.commit(noun, shard, columns, bad_N))
    delete_fragments(fragments, shard, batches)
    return max(records, key=lambda record: sum(record.quarantined.values()))
