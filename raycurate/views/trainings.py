"""Which trainings saw a row, and how often: by their tokens, and by the draw of a mixture (`training/mixture.py`).

Cost: one pass over the keys of each training's tokens; of a mixture also one hash for each row of the row's group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.training.mixture import MixturePart, row_hash
from raycurate.views.find import row_of


def epochs_over(run: Run, key: str, samples: str) -> dict[str, float | None]:
    """Label of a model -> epochs of its training over a row; 0 where it was left out, None where tokens are gone."""
    found: dict[str, float | None] = {}
    for noun in sorted((each for each in run.nouns() if each.noun == "models"), key=lambda each: each.label):
        manifest = noun.manifest()
        parts = [] if manifest is None else list(_parts(run, manifest, samples))
        if manifest is None or not parts:
            continue
        config = manifest.description["config"]
        steps, per_step = manifest.metrics.get("steps", 0), config.get("batch_rows", 0)
        epochs = min(config.get("epochs", 1.0), steps * per_step / max(manifest.rows_out, 1))
        if any(tokens.manifest() is None for tokens, _, _ in parts):
            found[noun.label] = None
            continue
        seed = config.get("mixture_seed", 0)
        times = sum(_has(tokens, part, clusters, key, seed) for tokens, part, clusters in parts)
        found[noun.label] = float(times * epochs)
    return found


def _parts(run: Run, manifest: Manifest, samples: str) -> Iterator[tuple[Noun, MixturePart, Noun | None]]:
    """Tokens, part and clusters of each source of a training that is of these samples; what is held out is none."""
    config, description = manifest.description["config"], manifest.description
    by_fingerprint = {value: name for name, value in description.get("made_from", {}).items()}
    read: Any = (description.get("inputs") or {}).get("tokens")
    if (mixture := config.get("mixture")) is None:
        mixture, read = [{"samples": config.get("samples", "main")}], [[read]]
    sources = zip(read, map(MixturePart.model_validate, mixture), strict=True)
    for fingerprints, part in sources:
        nouns = [by_fingerprint.get(each) for each in fingerprints]
        if part.samples == samples and nouns[0] is not None:
            clusters = None if part.clusters is None else run.noun("clusters", part.clusters)
            yield run.noun(*nouns[0].split("/", 1)), part, clusters


def _has(tokens: Noun, part: MixturePart, clusters: Noun | None, key: str, seed: int) -> bool:
    """Whether a part takes the row out of its source's tokens."""
    row = row_of(tokens, key)
    if row is None or part.rows is None:
        return row is not None
    if clusters is None:
        group, members = row["task"], _keys(tokens, "task", row["task"])
    else:
        own: dict[str, Any] = row_of(clusters, key) or {}
        group = str(own.get("cluster"))
        trained = pa.concat_tables(tokens.iter_parts(["key"]))["key"].combine_chunks()
        of_cluster = _keys(clusters, "cluster", own.get("cluster"))
        members = of_cluster.filter(pc.is_in(of_cluster, value_set=trained))
    wanted, mine = part.rows.get(group), (row_hash(key, seed), key)
    if wanted is None:
        return False
    before = sum((row_hash(other, seed), other) < mine for other in members.to_pylist())
    return part.skip <= before < part.skip + wanted


def _keys(noun: Noun, column: str, value: Any) -> pa.ChunkedArray:
    """Keys of the rows that have this value."""
    kept = [rows.filter(pc.equal(rows[column], value)) for rows in noun.iter_parts(["key", column])]
    return pa.concat_tables(kept)["key"]
