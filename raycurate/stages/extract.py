"""``extract``: forward passes of the reference model over Ray Data, one unit feature row per sample.

    shards --loader tasks (CPU: read, decode, tokenise, pack)--> batches --actor pool--> fragments --commit--> parts

A shard is read in windows of ``window_rows``; a window's batches depend on its rows only, so the features do not depend
on the number of actors, on Ray's blocks or on arrival order. Batches travel as safetensors bytes through the object
store; an actor writes the few unit rows of a batch as a fragment file and hands on a line of counts. When a shard has
all its fragments the driver starts the task that merges them into the shard's part, with its rejects and its record.
The driver holds counts only.

Cost: the model's truncated forward pass per row; 2 * D bytes per row written twice and read once. Memory: a loader
holds one window, an actor one batch. Ray Data's own checkpoint is not used: the shard records are the resume.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from raycurate.config import ExtractConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_column, features_of_table
from raycurate.filesystem import delete_folder, read_bytes, write_bytes
from raycurate.progress import Progress
from raycurate.ray_session import cluster_cpus, cluster_gpus
from raycurate.samples.schema import QUARANTINE_SCHEMA
from raycurate.stages.shards import count_record, describe, get_result, map_tasks, skip_if_done, stage_progress
from raycurate.store import Manifest, Noun, Run, ShardRecord

STAGE_VERSION = 1
BLOCK_BYTES = 8 << 20
SMALL_FILE = 64 << 20


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the driver must know of a model, found without loading its weights."""

    fingerprint: str
    layers: tuple[int, ...]
    block_dim: int
    dimension: int
    dtype: str


def extract(run: Run, config: ExtractConfig) -> Manifest:
    """Write the ``features`` noun: key and unit float16 row per sample, one part per samples shard."""
    samples = run.noun("samples", config.samples)
    sample_manifest = samples.require("ingest")
    gpus = config.gpus_per_actor if config.gpus_per_actor is not None else float(cluster_gpus() > 0)
    facts: ModelFacts = next(map_tasks(_model_facts, [(config, gpus > 0)], num_cpus=0.5))
    description = describe(
        "extract",
        STAGE_VERSION,
        config,
        {
            "samples": sample_manifest.fingerprint,
            "model": facts.fingerprint,
            "layers": facts.layers,
            "dtype": facts.dtype,
        },
    )
    noun = run.noun("features", config.label)
    if done := skip_if_done(noun, description):
        return done
    noun.begin(description)
    images = config.images or sample_manifest.description["config"]["images"]
    missing = noun.missing(sample_manifest.shards)
    with stage_progress("extract", noun, sample_manifest.rows_out) as progress:
        if missing:
            dataset = _dataset(samples, noun, config, facts, images, missing, gpus)
            _commit_shards(samples, noun, dataset, progress, config)
    delete_folder(noun.filesystem, f"{noun.folder}/fragments")
    return noun.finish(
        metrics={
            "dimension": facts.dimension,
            "blocks": facts.dimension // facts.block_dim,
            "block_dim": facts.block_dim,
            "layers": list(facts.layers),
            "dtype": facts.dtype,
            "model": config.model,
            "variant": config.variant,
        }
    )


def _model_facts(config: ExtractConfig, on_gpu: bool) -> ModelFacts:
    """Check that the model can be used, on the meta device; runs as a task so that the driver stays light."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from raycurate.features.extractor import ActivationExtractor
    from raycurate.models.adapter import check_supported, load_processor, resolve_dtype, resolve_model, wrap_vlm

    source = resolve_model(config.model)
    processor = load_processor(config.model, trust_remote_code=config.trust_remote_code)
    model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    check_supported(config.model, model_config)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(model_config, trust_remote_code=config.trust_remote_code)
    vlm = wrap_vlm(network, processor, name=config.model)
    layers = None if config.layers == "auto" else config.layers
    extractor = ActivationExtractor(vlm, layers, config.variant)
    return ModelFacts(
        fingerprint=_model_fingerprint(source, model_config),
        layers=tuple(extractor.layers),
        block_dim=vlm.hidden_size,
        dimension=extractor.feature_dim,
        dtype=str(resolve_dtype(config.dtype, "cuda" if on_gpu else "cpu")),
    )


def _model_fingerprint(source: str, model_config: Any) -> str:
    """A hash of a local folder's files (small ones whole, large ones by size and ends), or the hub's commit."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{getattr(model_config, '_commit_hash', None)}"
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".jinja")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(SMALL_FILE))
            if size > SMALL_FILE:
                stream.seek(max(SMALL_FILE, size - SMALL_FILE))
                digest.update(stream.read(SMALL_FILE))
    return digest.hexdigest()


def _dataset(
    samples: Noun,
    noun: Noun,
    config: ExtractConfig,
    facts: ModelFacts,
    images: str | None,
    missing: list[int],
    gpus: float,
) -> ray.data.Dataset:
    """The streaming pipeline from shard numbers to fragment counts."""
    slots = max(1, int(cluster_gpus() / gpus if gpus else 0.8 * cluster_cpus() / config.cpus_per_actor))
    most = max(1, min(config.max_actors, 2 * len(missing)))
    least = min(config.min_actors, most)
    pool = ray.data.ActorPoolStrategy(
        min_size=least,
        max_size=most,
        initial_size=max(least, min(most, slots)),
        max_tasks_in_flight_per_actor=4,
    )
    dataset = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
    context = dataset.context
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = int(config.stall_seconds)
    dataset = dataset.map_batches(
        functools.partial(_load_shards, samples, config, facts, images),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_loader,
    )
    return dataset.map_batches(
        _Extractor,
        fn_constructor_kwargs={"noun": noun, "config": config, "facts": facts, "on_gpu": gpus > 0},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_actor,
        num_gpus=gpus or None,
        compute=pool,
    )


@functools.lru_cache(maxsize=4)
def _preparer(model: str, trust_remote_code: bool, max_length: int, tokens: int, rows: int, dtype: str) -> Any:
    """A worker process keeps the processors that it has loaded."""
    import torch

    from raycurate.features.prepare import Preparer
    from raycurate.models.adapter import load_processor

    torch.set_num_threads(1)
    return Preparer(
        load_processor(model, trust_remote_code=trust_remote_code),
        max_length=max_length,
        token_budget=tokens,
        max_rows=rows,
        pixel_dtype=getattr(torch, dtype.removeprefix("torch.")),
    )


BATCH_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("window", pa.int32()),
        ("batch", pa.int32()),
        ("batches", pa.int32()),
        ("windows", pa.int32()),
        ("failures", pa.string()),
        ("payload", pa.large_binary()),
    ]
)


def _load_shards(
    samples: Noun, config: ExtractConfig, facts: ModelFacts, images: str | None, table: pa.Table
) -> Iterator[pa.Table]:
    """Loader task: read one shard window by window, decode, tokenise, pack; one row per batch."""
    from raycurate.samples.images import ImageRoot, load_image
    from raycurate.samples.schema import ImageRef

    preparer = _preparer(
        config.model,
        config.trust_remote_code,
        config.max_length,
        config.batch_tokens,
        config.batch_rows,
        facts.dtype,
    )
    root = ImageRoot(images)

    def as_sample(row: dict[str, Any]) -> dict[str, Any]:
        references = [ImageRef(image["path"], image["data"], image["sha"]) for image in row["images"]]
        return {
            "key": row["key"],
            "messages": row["messages"],
            "images": [functools.partial(lambda ref: load_image(root.read(ref)), ref) for ref in references],
            "image_keys": [ref.identity for ref in references],
        }

    for shard in table["shard"].to_pylist():
        rows = samples.read_part(shard, ["key", "messages", "images"])
        windows = max(1, -(-rows.num_rows // config.window_rows))
        for window in range(windows):
            start = window * config.window_rows
            prepared = preparer.prepare([as_sample(r) for r in rows.slice(start, config.window_rows).to_pylist()])
            failures = [[start + f.row, f.key, f.reason, f.detail] for f in prepared.failures]
            payloads: list[bytes | None] = [batch.to_bytes() for batch in prepared.batches] or [None]
            for number, payload in enumerate(payloads):
                line = {
                    "shard": shard,
                    "window": window,
                    "batch": number,
                    "batches": len(payloads),
                    "windows": windows,
                    "failures": json.dumps(failures if number == 0 else []),
                    "payload": payload,
                }
                yield pa.Table.from_pylist([line], schema=BATCH_SCHEMA)


def _fragment_name(shard: int, window: int, batch: int) -> str:
    return f"fragments/{shard:05d}-{window:05d}-{batch:05d}.arrow"


class _Extractor:
    """Actor: the model on its device; a batch in, a fragment file and a line of counts out."""

    def __init__(self, noun: Noun, config: ExtractConfig, facts: ModelFacts, on_gpu: bool) -> None:
        import torch

        from raycurate.features.extractor import ActivationExtractor
        from raycurate.models.adapter import load_vlm

        if not on_gpu:
            torch.set_num_threads(config.threads)
        vlm = load_vlm(
            config.model,
            device="cuda" if on_gpu else "cpu",
            dtype=facts.dtype.removeprefix("torch."),
            trust_remote_code=config.trust_remote_code,
        )
        self.extractor = ActivationExtractor(vlm, facts.layers, config.variant)
        self.noun, self.window_rows = noun, config.window_rows

    def __call__(self, table: pa.Table) -> pa.Table:
        lines = [self._extract(row) for row in table.to_pylist()]
        return pa.Table.from_pylist(lines)

    def _extract(self, row: dict[str, Any]) -> dict[str, int]:
        from raycurate.features.batch import PreparedBatch

        dimension = self.extractor.feature_dim
        positions: list[int] = []
        keys: list[str] = []
        reasons: list[str | None] = []
        details: list[str | None] = []
        features_ND = np.zeros((0, dimension), dtype=np.float16)
        if row["payload"] is not None:
            result = self.extractor.extract(PreparedBatch.from_bytes(row["payload"]))
            start = row["window"] * self.window_rows
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
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, fragment.schema) as writer:
            writer.write_table(fragment)
        path = f"{self.noun.folder}/{_fragment_name(row['shard'], row['window'], row['batch'])}"
        write_bytes(self.noun.filesystem, path, sink.getvalue())
        return {name: row[name] for name in ("shard", "window", "batch", "batches", "windows")}


class _Ledger:
    """Which batches of which shard are done; says when a shard is complete."""

    def __init__(self) -> None:
        self.batches: dict[int, dict[int, int]] = {}
        self.seen: dict[int, set[tuple[int, int]]] = {}

    def add(self, line: dict[str, int]) -> dict[int, int] | None:
        """Note one batch; the batches per window once the shard is complete. A batch that came twice counts once."""
        shard = line["shard"]
        expected = self.batches.setdefault(shard, {})
        expected[line["window"]] = line["batches"]
        seen = self.seen.setdefault(shard, set())
        seen.add((line["window"], line["batch"]))
        if len(expected) < line["windows"] or len(seen) < sum(expected.values()):
            return None
        del self.batches[shard], self.seen[shard]
        return expected


def _commit_shards(
    samples: Noun, noun: Noun, dataset: ray.data.Dataset, progress: Progress, config: ExtractConfig
) -> None:
    """Drive the pipeline; start a merge task for each complete shard; count."""
    ledger = _Ledger()
    merge = ray.remote(_merge_shard).options(num_cpus=0.1)
    pending: list[ray.ObjectRef] = []
    rejected = 0

    def collect(block: bool) -> None:
        nonlocal rejected
        while pending:
            ready, _ = ray.wait(pending, num_returns=1, timeout=None if block else 0)
            if not ready:
                return
            pending.remove(ready[0])
            record = get_result(ready[0])
            rejected = count_record(progress, record, strict=config.strict, quarantined=rejected)

    try:
        for line in dataset.iter_rows():
            batches = ledger.add(line)
            if batches is not None:
                pending.append(merge.remote(samples, noun, line["shard"], batches))
            collect(block=False)
    except ray.exceptions.RayError as error:
        raise _readable(error) from error
    collect(block=True)
    assert not ledger.batches, f"shards left incomplete: {sorted(ledger.batches)}"


def _readable(error: ray.exceptions.RayError) -> Exception:
    """The task's own exception where Ray carries one."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        if isinstance(inner, UserError):
            return UserError(str(inner))
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return error


def _merge_shard(samples: Noun, noun: Noun, shard: int, batches: dict[int, int]) -> ShardRecord:
    """Put the fragments of one shard together, in the order of its samples, and commit them."""
    names = [_fragment_name(shard, window, number) for window, count in batches.items() for number in range(count)]
    filesystem = noun.filesystem
    tables = [pa.ipc.open_file(pa.py_buffer(read_bytes(filesystem, f"{noun.folder}/{n}"))).read_all() for n in names]
    merged = pa.concat_tables(tables)
    order = np.argsort(merged["row"].to_numpy(), kind="stable")
    source = samples.read_part(shard, ["key", "source_id", "source_file", "source_row", "messages"])
    rows = merged["row"].to_numpy()[order]
    assert np.array_equal(rows, np.arange(source.num_rows)), f"rows of shard {shard} were lost or came twice"
    ok_N = merged["reason"].is_null().to_numpy()[order]
    features_ND = features_of_table(merged)[order[ok_N]]
    good = np.flatnonzero(ok_N)
    table = pa.table({"key": source["key"].take(pa.array(good)), "features": features_column(features_ND)})
    bad = np.flatnonzero(~ok_N)
    rejects = _rejects(source.take(pa.array(bad)), merged.take(pa.array(order[bad])))
    if source.num_rows and not len(good):
        raise UserError(
            f"every one of the {source.num_rows} rows of shard {shard} failed, the first with "
            f"'{rejects['reason'][0]}': {rejects['detail'][0]}. Check the model and the image root."
        )
    record = noun.commit_part(shard, table, rows_in=source.num_rows, rejects=rejects, compression="none")
    for name in names:
        filesystem.delete_file(f"{noun.folder}/{name}")
    return record


def _rejects(source: pa.Table, failed: pa.Table) -> pa.Table:
    excerpts = [" ".join(m["text"] for m in messages)[:500] for messages in source["messages"].to_pylist()]
    columns = {name: source[name] for name in ("key", "source_id", "source_file", "source_row")}
    columns |= {"reason": failed["reason"], "detail": failed["detail"], "excerpt": pa.array(excerpts, pa.string())}
    return pa.table(columns).cast(QUARANTINE_SCHEMA)
