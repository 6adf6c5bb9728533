"""``dedup``: mark the rows that say what another row says; the row of a group whose key sorts first stays.

    samples --> prints --passes over groups of rows that can be copies--> marks/dedup

    exact_copy     the same plain text and the same pixels of every image
    near_image     the same plain text, and images that are near, one by one
    near_text      the same pixels of every image (or none), and questions and answers that are near, each
    near_features  rows of one cluster whose features have a cosine of `cosine` or more; where `clusters` are named

The passes follow in this order, each over the rows that stay. Rows of text alone that are near have no image that could
bring them together: they meet by the smallest of the hashes of their grams, in `TABLES` passes with other hashes, which
is the same for two rows with probability J, their resemblance: 1 - (1 - J)^3 of them are found, 99.2 % at 0.8.

Same question, near image and another answer is a contradiction, no copy: which of the two is right cannot be told
here, and both stay. The summary says how many rows have one before them at other cosines than the one that was taken.

Cost: the prints (a decode an image); per pass a shuffle of what it compares; pairs within groups. Memory of a task:
`bucket_mb`, or the largest group: 350 bytes a row of one text, the features of a cluster up to `cluster_rows`, beyond
which a cluster is compared in hashed parts and copies in two parts are not seen.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.cleaning.alike import HASH_BITS, by_images, by_words, grams_of, hashes_of, shades_of
from raycurate.cleaning.config import DedupConfig
from raycurate.cleaning.copies import Copies, all_copies, find_copies
from raycurate.cleaning.pictures import PIXEL_BYTES
from raycurate.features.rows import features_of_table
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import delete_folder
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.selection.exact import dots, squared_norms
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.methods.semdedup import nearest_earlier
from raycurate.stages.cleaning import marks
from raycurate.stages.cleaning.passes import Pass, final_marks, run_pass
from raycurate.stages.cleaning.prints import make_prints
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.shards import describe, run_missing_shards, skip_if_done

TABLES = 3
SHOWN_COSINES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
PRINT_BYTES = 2048
"""Of a row of text and images as a pass carries it, for the number of buckets."""
ROWS_HERE = 20_000
"""Rows that one process compares in the seconds that a cluster takes to start."""
MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""Odd numbers: a product with one, modulo 2^64, is another order of the same hashes."""


def _is_small(run: Run, config: DedupConfig) -> bool:
    samples = run.noun("samples", config.samples).manifest()
    return samples is not None and samples.rows_out <= ROWS_HERE and config.clusters is None


@in_session_unless(_is_small)
def dedup(run: Run, config: DedupConfig) -> Manifest:
    """Write the noun ``marks/dedup``: per sample why it is a copy of which row, if it is.

    Raises:
        UserError: samples or clusters that are not there or stale, or images that cannot be read.
    """
    samples = run.noun("samples", config.samples)
    sample_manifest = required(samples)
    clustering = _clustering(run, config, sample_manifest)
    prints = make_prints(run, config, config.samples)
    read = [sample_manifest, required(prints), *(required(noun) for noun in clustering)]
    inputs = {each.noun: each.fingerprint for each in read}
    description = describe("dedup", config, inputs, read)
    noun = run.noun(marks.NOUN, config.label)
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace)
    rows = sample_manifest.rows_out
    buckets = max(1, -(-rows * PRINT_BYTES // (config.bucket_mb << 20)))
    passes = _passes(prints, config)
    if clustering:
        features, clusters = clustering
        passes.append(_feature_pass(prints, features, clusters, config))
        dimension = int(required(features).metrics["dimension"])
        buckets = max(buckets, -(-rows * 2 * dimension // (config.bucket_mb << 20)))
    found: dict[str, dict[str, int]] = {}
    for place, one in enumerate(passes):
        shards = {"shards": sample_manifest.shards, "buckets": buckets, "max_tasks": config.max_tasks}
        found[one.name] = run_pass(noun, one, passes[:place], **shards)
    gather = functools.partial(_gather, noun, samples, [one.name for one in passes], buckets)
    run_missing_shards(
        "dedup",
        noun,
        gather,
        num_shards=sample_manifest.shards,
        total_rows=rows,
        num_cpus=0.5,
        max_tasks=config.max_tasks,
    )
    delete_folder(noun.filesystem, f"{noun.folder}/work")
    more: dict[str, Any] = {"groups": sum(each["groups"] for each in found.values())}
    if clustering:
        more["rows_by_cosine"] = {f"{cosine:g}": found["features"].get(f"{cosine:g}", 0) for cosine in SHOWN_COSINES}
    return marks.finish_marks(noun, more)


def _clustering(run: Run, config: DedupConfig, samples: Manifest) -> list[Noun]:
    """The features and the clusters that are compared; none where no clusters are named."""
    if config.clusters is None:
        return []
    clusters = run.noun("clusters", config.clusters)
    manifest = required(clusters, of=samples)
    features = run.noun("features", manifest.description["config"]["features"])
    required(features, of=samples)
    return [features, clusters]


def _gather(noun: Noun, samples: Noun, passes: list[str], buckets: int, shard: int) -> ShardRecord:
    """Task: the marks of one shard."""
    keys = samples.read_part(shard, ["key", "source_id"])
    return marks.commit_marks(noun, shard, final_marks(noun, passes, buckets, shard, keys))


def _passes(prints: Noun, config: DedupConfig) -> list[Pass]:
    """The passes over prints, in their order."""
    bound = 1.0 - config.distance / HASH_BITS
    images = ["pixels", "hashes", "shades"]
    words = ["pixels", "asked", "answered"]
    near_text = functools.partial(_copies_by_words, config.words)
    return [
        Pass("exact", "exact_copy", functools.partial(_same_rows, prints), lambda group: all_copies(group.num_rows)),
        Pass(
            "image",
            "near_image",
            functools.partial(_rows_of_text, prints, images),
            functools.partial(_copies_by_images, bound),
        ),
        Pass("words", "near_text", functools.partial(_rows_of_images, prints, words), near_text),
        *(
            Pass(f"words{table}", "near_text", functools.partial(_rows_of_gram, prints, table, words), near_text)
            for table in range(TABLES)
        ),
    ]


def _read(prints: Noun, shard: int, columns: list[str]) -> pa.Table:
    return prints.read_part(shard, list(dict.fromkeys(["key", "source_id", *columns])))


def _grouped(rows: pa.Table, common: list[bytes], columns: list[str]) -> pa.Table:
    """The rows with a hash of what their group has in common."""
    group_N = key_hashes(_as_keys(common), seed=0, purpose="group")
    return rows.select(["key", "source_id", *columns]).append_column("group", pa.array(group_N, pa.uint64()))


def _as_keys(values: list[bytes]) -> Any:
    return np.array([value.hex() for value in values], dtype=np.bytes_)


def _same_rows(prints: Noun, shard: int) -> pa.Table:
    """Groups of the same text and pixels."""
    rows = _read(prints, shard, ["text", "pixels"])
    common = [t + p for t, p in zip(rows["text"].to_pylist(), rows["pixels"].to_pylist(), strict=True)]
    return _grouped(rows, common, [])


def _rows_of_text(prints: Noun, columns: list[str], shard: int) -> pa.Table:
    """Rows with images: groups of the same text and number of images."""
    rows = _read(prints, shard, ["text", *columns])
    rows = rows.filter(pc.greater(pc.binary_length(rows["pixels"]), 0))
    length = pc.binary_length(rows["pixels"]).to_pylist()
    common = [t + n.to_bytes(8, "little") for t, n in zip(rows["text"].to_pylist(), length, strict=True)]
    return _grouped(rows, common, columns)


def _rows_of_images(prints: Noun, columns: list[str], shard: int) -> pa.Table:
    """Rows with images: groups of the same ones."""
    rows = _read(prints, shard, columns)
    rows = rows.filter(pc.greater(pc.binary_length(rows["pixels"]), 0))
    return _grouped(rows, rows["pixels"].to_pylist(), columns)


def _rows_of_gram(prints: Noun, table: int, columns: list[str], shard: int) -> pa.Table:
    """Rows of text alone: groups of the same smallest gram, in the order of a table."""
    rows = _read(prints, shard, columns)
    rows = rows.filter(pc.equal(pc.binary_length(rows["pixels"]), 0))
    sides = zip(grams_of(rows["asked"]), grams_of(rows["answered"]), strict=True)
    factor = np.uint64(MULTIPLIERS[table])
    smallest = [(np.concatenate(both) * factor).min(initial=np.uint64(2**64 - 1)) for both in sides]
    return _grouped(rows, [int(value).to_bytes(8, "little") for value in smallest], columns)


def _copies_by_images(bound: float, group: pa.Table) -> Copies:
    images = len(group["pixels"][0].as_py()) // PIXEL_BYTES
    hash_NI = hashes_of(group["hashes"], images)[:, :, 0]
    return find_copies(group.num_rows, by_images(hash_NI, shades_of(group["shades"], images), bound), bound)


def _copies_by_words(bound: float, group: pa.Table) -> Copies:
    return find_copies(group.num_rows, by_words(grams_of(group["asked"]), grams_of(group["answered"])), bound)


def _feature_pass(prints: Noun, features: Noun, clusters: Noun, config: DedupConfig) -> Pass:
    sizes = clusters.read_table("centroids.parquet", columns=["cluster", "size"])
    parts = -(-sizes["size"].to_numpy().astype(np.int64) // config.cluster_rows)
    part_of = dict(zip(sizes["cluster"].to_pylist(), np.maximum(parts, 1).tolist(), strict=True))
    rows = functools.partial(_rows_of_cluster, prints, features, clusters, part_of)
    copies = functools.partial(_copies_by_features, config.cosine)
    return Pass("features", "near_features", rows, copies, _rows_by_cosine)


def _rows_of_cluster(prints: Noun, features: Noun, clusters: Noun, part_of: dict[int, int], shard: int) -> pa.Table:
    """Groups of one cluster, of hashed parts of it where it is large."""
    rows = features.read_part(shard)
    found = clusters.read_part(shard, ["key", "cluster"])
    assert rows["key"].equals(found["key"]), f"features and clusters differ in shard {shard}"
    cluster_N = found["cluster"].to_numpy().astype(np.int64)
    hash_N = key_hashes(key_array(rows["key"]), seed=0, purpose="part")
    part_N = hash_N % np.array([part_of[cluster] for cluster in cluster_N.tolist()], dtype=np.uint64)
    group_N = cluster_N.astype(np.uint64) << np.uint64(32) | part_N
    rows = rows.select(["key", "features"]).append_column("group", pa.array(group_N, pa.uint64()))
    named = _read(prints, shard, [])
    at = pc.index_in(rows["key"], value_set=named["key"].combine_chunks()).combine_chunks()
    return rows.append_column("source_id", named["source_id"].take(at)).filter(at.is_valid())


def _copies_by_features(bound: float, group: pa.Table) -> Copies:
    rows_ND = features_of_table(group)
    length_N = np.sqrt(squared_norms(rows_ND))
    length_N[length_N == 0] = 1.0

    def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = dots(rows_ND[left], rows_ND[right]) / (length_N[left][:, None] * length_N[right])
        return scaled

    return find_copies(group.num_rows, cosine, bound)


def _rows_by_cosine(group: pa.Table) -> dict[str, int]:
    """Rows of a group that have a row before them with at least so much cosine."""
    largest_N = nearest_earlier(features_of_table(group))
    return {f"{cosine:g}": int((largest_N >= cosine).sum()) for cosine in SHOWN_COSINES}
