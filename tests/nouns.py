"""Finished nouns of a run made from arrays, for tests of the stages that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.features.rows import features_column
from raycurate.run.store import Noun, Run
from raycurate.samples.schema import SAMPLE_SCHEMA


def _parts(rows: int, shards: int) -> list[np.ndarray]:
    return [part for part in np.array_split(np.arange(rows), shards)]


def write_samples(run: Run, keys: Sequence[str], tasks: Sequence[str], *, shards: int = 1, label: str = "main") -> Noun:
    """Text-only samples with these keys and tasks."""
    noun = run.noun("samples", label)
    noun.begin({"stage": "ingest", "config": {"images": None}, "keys": list(keys)})
    for shard, part in enumerate(_parts(len(keys), shards)):
        rows = [
            {
                "key": keys[i],
                "source_id": f"row {i}",
                "task": tasks[i],
                "messages": [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}],
                "images": [],
                "source_file": "made",
                "source_row": int(i),
                "order": b"\0" * 8,
            }
            for i in part
        ]
        noun.commit_part(shard, pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), rows_in=len(rows))
    noun.finish(metrics={"tasks": dict(Counter(tasks))})
    return noun


def write_features(
    run: Run,
    keys: Sequence[str],
    features_ND: np.ndarray,
    *,
    shards: int = 1,
    block_dim: int = 4,
    label: str = "main",
    samples: str = "main",
    lengths_N: np.ndarray | None = None,
) -> Noun:
    """Feature rows as `extract` leaves them; with lengths those of `attended`."""
    noun = run.noun("features", label)
    made_from = run.noun("samples", samples).require("ingest")
    inputs = {"samples": made_from.fingerprint}
    description = {"stage": "extract", "config": {}, "inputs": inputs, "sum": float(features_ND.sum())}
    noun.begin({**description, "made_from": {f"samples/{samples}": made_from.fingerprint}})
    place = {key: i for i, key in enumerate(keys)}
    for shard in range(shards):
        held = run.noun("samples", samples).read_part(shard, ["key"])["key"].to_pylist()
        part = np.array([place[key] for key in held if key in place], dtype=np.int64)
        table = pa.table(
            {"key": pa.array([keys[i] for i in part], pa.string()), "features": features_column(features_ND[part])}
        )
        if lengths_N is not None:
            table = table.append_column("length", pa.array(lengths_N[part], pa.float32()))
        noun.commit_part(shard, table, rows_in=len(part), compression="none")
    dimension = features_ND.shape[1]
    noun.finish(metrics={"dimension": dimension, "block_dim": block_dim, "blocks": dimension // block_dim})
    return noun


def write_clusters(
    run: Run,
    keys: Sequence[str],
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    centroids_KD: np.ndarray,
    *,
    shards: int,
    label: str = "main",
) -> Noun:
    """Assignments and centroids of the features of the same label as `cluster` leaves them."""
    noun = run.noun("clusters", label)
    features = run.noun("features", label).require("extract")
    noun.begin({"stage": "cluster", "config": {"features": label}, "inputs": {"features": features.fingerprint}})
    similarity_N = np.einsum("nd,nd->n", features_ND.astype(np.float64), centroids_KD[labels_N])
    for shard, part in enumerate(_parts(len(keys), shards)):
        table = pa.table(
            {
                "key": pa.array([keys[i] for i in part], pa.string()),
                "cluster": pa.array(labels_N[part], pa.int32()),
                "similarity": pa.array(similarity_N[part], pa.float32()),
            }
        )
        noun.commit_part(shard, table, rows_in=len(part))
    clusters = len(centroids_KD)
    centroid = features_column(centroids_KD, np.float32)
    sizes = np.bincount(labels_N, minlength=clusters)
    noun.write_table(
        "centroids.parquet",
        pa.table({"cluster": pa.array(range(clusters), pa.int32()), "centroid": centroid, "size": pa.array(sizes)}),
    )
    noun.finish(metrics={"clusters": clusters})
    return noun


def write_scores(run: Run, group: str, columns: dict[str, Sequence[object]], *, shards: int = 1) -> Noun:
    """Scores as `score` leaves them: `key` and numbers."""
    noun = run.noun("row_scores", group)
    samples = run.noun("samples").require("ingest")
    table = pa.table(columns)
    noun.begin({"stage": "score", "config": {}, "inputs": {"samples": samples.fingerprint}, "rows": table.num_rows})
    for shard in range(shards):
        keys = run.noun("samples").read_part(shard, ["key"])["key"]
        part = table.filter(pc.is_in(table["key"], value_set=keys.combine_chunks()))
        noun.commit_part(shard, part, rows_in=part.num_rows)
    noun.finish()
    return noun


def read_all(noun: Noun) -> pa.Table:
    """Every part of a finished noun, in order."""
    return pa.concat_tables(noun.iter_parts())
