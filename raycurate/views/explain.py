"""Everything that happened to one row: where it came from, what it was made into, why it stayed or went.

    source -> sample -> features (norm) -> cluster, its nearest rows -> rank -> each selection: kept or why not, and the
    ratio that would have kept it -> scores, each with its percentile -> the trainings that saw it

Cost: one pass over the keys of each noun, one over a score for its percentile, one over the features of the row's
cluster for its neighbours where the features are at most `FEATURE_BYTES`. One shard in memory at a time.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_of_table
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.samples.images import ImageRoot
from raycurate.samples.mixture import source_name
from raycurate.samples.quarantine import FaultError
from raycurate.samples.readers import format_by_name
from raycurate.samples.schema import ImageRef
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import why_stale
from raycurate.stages.engine.names import ROW_SCORES
from raycurate.stages.selecting.what_if import first_ratio, keeps_at
from raycurate.views.find import find_row, refused_parts, row_of
from raycurate.views.trainings import epochs_over

FEATURE_BYTES = 4 << 30
"""Features that are read for the neighbours of one row."""
RATIO_ROWS = 200_000
"""Rows up to which the ratio that would keep a row is searched unasked: ten plans over all of them."""
NEIGHBOURS = 3
MOST_COPIES = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a row.

    Attributes:
        key: None for a row that was refused before it had one.
        source: file, row, id and task.
        turns: role and text of each.
        images: path, or size in bytes of one that came with the row; kind, width and height where it can be read.
        refused: reason, detail and excerpt of a row in quarantine.
        features: label -> dimension and norm.
        clusters: label -> cluster, its size, similarity to its centroid, nearest rows.
        scores: noun and column -> value and percentile.
        marks: label -> why it is marked, and the row that it is like.
        selections: label -> kept, reason, rank and what its group was given.
        trainings: label -> how often a training saw the row, on average of its rows; None where that is gone.
        rejected: noun/label -> why a stage that came later refused the row.
        copies: label of marks -> rows that are marked as like this one, which stays: how many, and the first keys.
        stale: noun/label -> why what is told of it is out of date.
    """

    key: str | None
    source: dict[str, Any]
    turns: list[dict[str, str]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    refused: dict[str, str] | None = None
    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    clusters: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    marks: dict[str, dict[str, Any]] = field(default_factory=dict)
    selections: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, float | None] = field(default_factory=dict)
    rejected: dict[str, dict[str, str]] = field(default_factory=dict)
    copies: dict[str, dict[str, Any]] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def explain_row(run: Run, name: str, samples: str = "main", *, search_ratio: bool | None = None) -> Explanation:
    """Explain the row of a key or of a source's id.

    Args:
        run: its run directory.
        name: key or id.
        samples: label of its samples.
        search_ratio: whether the ratio that would keep it is searched; default: up to `RATIO_ROWS` rows.

    Raises:
        UserError: no such row, or several.
    """
    place = find_row(run, name, samples)
    if place.refused is not None:
        gone = place.refused
        source = {column: gone[column] for column in ("source_file", "source_row", "source_id")}
        return Explanation(place.key, source, refused={c: gone[c] for c in ("reason", "detail", "excerpt")})
    noun = run.noun("samples", samples)
    manifest = noun.require("ingest")
    row, key = row_of(noun, place.key or "", place.shard), place.key
    assert row is not None, "it was found there"
    assert key is not None, "samples have keys"
    search = manifest.rows_out <= RATIO_ROWS if search_ratio is None else search_ratio
    return Explanation(
        key=key,
        source={column: row[column] for column in ("source_file", "source_row", "source_id", "task")}
        | {"reader": reader_of(manifest.description["config"], row["source_file"])},
        turns=[{"role": turn["role"], "text": turn["text"]} for turn in row["messages"]],
        images=[_image(image, manifest) for image in row["images"]],
        features=_features(run, key, place.shard),
        clusters=_clusters(run, key, place.shard),
        scores=_scores(run, key, place.shard),
        marks=_marks(run, key, place.shard, samples),
        selections=_selections(run, key, place.shard, manifest, search=search),
        trainings=epochs_over(run, key, samples),
        rejected=_rejected(run, key),
        copies=_copies(run, key, samples),
        stale=_stale(run),
    )


def reader_of(config: dict[str, Any], file: str) -> str | None:
    """The format that a file was read as, and the user's function that its rows went through."""
    sources = config.get("sources") or {}
    name = (sources.get(source_name(file)) or config).get("format")
    if name in ("auto", "hub"):
        name = format_by_name(file) or "its first bytes tell"
    function = config.get("row_function")
    return f"{name}, then {function}" if function else name


def _image(image: dict[str, Any], samples: Manifest) -> str:
    """Where an image lies, and what its header says."""
    place = image["path"] or f"{len(image['data'] or b''):,} bytes in the row"
    try:
        data = ImageRoot.of(samples.description["config"].get("images")).read(ImageRef(image["path"], image["data"]))
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            return f"{place}: {opened.format} of {width} x {height}, {opened.mode}, {len(data):,} bytes"
    except (UserError, FaultError, OSError, ValueError, Image.DecompressionBombError) as error:
        return f"{place}: cannot be read ({error})"


def _rejected(run: Run, key: str) -> dict[str, dict[str, str]]:
    """Reason and detail of each stage that refused the row after it was ingested."""
    found: dict[str, dict[str, str]] = {}
    for noun in run.nouns():
        if noun.noun == "samples":
            continue
        for rows in refused_parts(noun):
            own = rows.filter(pc.fill_null(pc.equal(rows["key"], key), False))
            if own.num_rows:
                row = own.slice(0, 1).to_pylist()[0]
                found[f"{noun.noun}/{noun.label}"] = {name: row[name] for name in ("reason", "detail")}
    return found


def _copies(run: Run, key: str, samples: str) -> dict[str, dict[str, Any]]:
    """Rows that are marked as like this one."""
    found: dict[str, dict[str, Any]] = {}
    for noun, manifest in _nouns(run, "marks"):
        if manifest.description["config"].get("samples") != samples:
            continue
        keys = [
            rows.filter(pc.and_(pc.is_valid(rows["reason"]), pc.fill_null(pc.equal(rows["like"], key), False)))
            for rows in noun.iter_parts(["key", "like", "reason"])
        ]
        copies = [each for rows in keys for each in rows["key"].to_pylist()]
        if copies:
            found[noun.label] = {"rows": len(copies), "keys": copies[:MOST_COPIES]}
    return found


def _stale(run: Run) -> dict[str, str]:
    """Why each finished noun that is told of is out of date."""
    kinds = ("features", "clusters", ROW_SCORES, "marks", "selection", "models")
    made = ((noun, noun.manifest()) for noun in run.nouns() if noun.noun in kinds)
    stale = {f"{n.noun}/{n.label}": why_stale(n, m) for n, m in made if m is not None}
    return {name: f"{found}; {found.remedy} makes it again" for name, found in stale.items() if found is not None}


def _nouns(run: Run, kind: str) -> list[tuple[Noun, Manifest]]:
    """The finished nouns of a kind, by label."""
    found = [(noun, noun.manifest()) for noun in run.nouns() if noun.noun == kind]
    return sorted(((n, m) for n, m in found if m is not None), key=lambda pair: pair[0].label)


def _features(run: Run, key: str, shard: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for noun, _ in _nouns(run, "features"):
        vector_D = _vector(noun, key, shard)
        if vector_D is not None:
            found[noun.label] = {"dimension": vector_D.size, "norm": float(np.linalg.norm(vector_D))}
    return found


def _vector(noun: Noun, key: str, shard: int) -> np.ndarray | None:
    """The features of a row in float64; the shard is looked at first, as features keep the shards of the samples."""
    manifest = noun.require("extract")
    for number in dict.fromkeys((min(shard, manifest.shards - 1), *range(manifest.shards))):
        place = pc.index(noun.read_part(number, ["key"])["key"], key).as_py()
        if place >= 0:
            rows = noun.read_part(number, ["features"]).slice(place, 1)
            return np.asarray(features_of_table(rows)[0], dtype=np.float64)
    return None


def _clusters(run: Run, key: str, shard: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for noun, manifest in _nouns(run, "clusters"):
        row = row_of(noun, key, shard)
        if row is None:
            continue
        members = [
            rows.filter(pc.equal(rows["cluster"], row["cluster"])) for rows in noun.iter_parts(["key", "cluster"])
        ]
        keys = pa.concat_tables(members)["key"]
        features = run.noun("features", manifest.description["config"]["features"])
        nearest = _nearest(features, key, shard, keys)
        found[noun.label] = {
            "cluster": row["cluster"],
            "size": len(keys),
            "similarity": row.get("similarity"),
            "nearest": nearest,
            "not_searched": "" if nearest is not None else _why_not_searched(features),
        }
    return found


def _why_not_searched(features: Noun) -> str:
    """Why no neighbours are told."""
    return "the features are gone" if features.manifest() is None else "the features are too large, or without this row"


def _nearest(features: Noun, key: str, shard: int, keys: pa.ChunkedArray) -> list[dict[str, Any]] | None:
    """The rows of the same cluster that are most like a row, by the cosine of their features; None where too large."""
    manifest = features.manifest()
    if manifest is None or 2 * manifest.rows_out * int(manifest.metrics["dimension"]) > FEATURE_BYTES:
        return None
    own_D = _vector(features, key, shard)
    if own_D is None:
        return None
    likes: list[tuple[float, str]] = []
    for rows in features.iter_parts(["key", "features"]):
        others = rows.filter(
            pc.and_(pc.is_in(rows["key"], value_set=keys.combine_chunks()), pc.not_equal(rows["key"], key))
        )
        if others.num_rows:
            values_ND = np.asarray(features_of_table(others), dtype=np.float64)
            norms_N = np.maximum(np.linalg.norm(values_ND, axis=1) * np.linalg.norm(own_D), 1e-300)
            likes += zip((values_ND @ own_D / norms_N).tolist(), others["key"].to_pylist(), strict=True)
            likes = sorted(likes, key=lambda pair: (-pair[0], pair[1]))[:NEIGHBOURS]
    return [{"key": other, "cosine": cosine} for cosine, other in likes]


def _scores(run: Run, key: str, shard: int) -> dict[str, dict[str, float | None]]:
    """Every number of the row's scores, and the part of all rows that lies below it."""
    found: dict[str, dict[str, float | None]] = {}
    for noun, _ in _nouns(run, ROW_SCORES):
        row = row_of(noun, key, shard) or {}
        own = {c: float(v) for c, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        below, total = dict.fromkeys(own, 0), dict.fromkeys(own, 0)
        for rows in noun.iter_parts(list(own)) if own else ():
            for column, value in own.items():
                values_N = rows[column].drop_null().to_numpy().astype(np.float64)
                below[column] += int((values_N < value).sum())
                total[column] += int(np.isfinite(values_N).sum())
        for column, value in own.items():
            finite = bool(np.isfinite(value))
            found[f"{noun.label}.{column}"] = {
                "value": value if finite else None,
                "percentile": 100 * below[column] / total[column] if total[column] and finite else None,
            }
    return found


def _marks(run: Run, key: str, shard: int, samples: str) -> dict[str, dict[str, Any]]:
    """Why passes over copies and test rows marked the row, and what it is like."""
    found: dict[str, dict[str, Any]] = {}
    for noun, manifest in _nouns(run, "marks"):
        own = manifest.description["config"].get("samples") == samples
        row = row_of(noun, key, shard) if own else None
        if row is not None and row["reason"] is not None:
            found[noun.label] = {name: row.get(name) for name in ("reason", "similarity", "like", "like_source_id")}
    return found


def _selections(run: Run, key: str, shard: int, samples: Manifest, *, search: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for noun, manifest in _nouns(run, "selection"):
        row = row_of(noun, key, shard)
        config = manifest.description["config"]
        if row is None or config["samples"] != samples.label:
            continue
        told = {name: row[name] for name in ("kept", "reason", "cluster", "rank", "score")}
        told |= {"method": config["method"], "ratio": config["ratio"], "group": _group(noun, row)}
        if search and not row["kept"]:
            stale = why_stale(noun, manifest)  # a plan of now is of other rows
            told["kept_from_ratio"] = f"cannot be told: {stale}" if stale else _ratio(run, config, key, shard)
        found[noun.label] = told
    return found


def _group(noun: Noun, row: dict[str, Any]) -> dict[str, Any]:
    """What the row's task, its cluster and its cell were given."""
    found: dict[str, Any] = {}
    for name, columns in (("tasks", ("task",)), ("clusters", ("cluster",)), ("cells", ("task", "cluster"))):
        if noun.filesystem.get_file_info(f"{noun.folder}/{name}.parquet").is_file:
            table = noun.read_table(f"{name}.parquet")
            for column in columns:
                table = table.filter(pc.equal(table[column], row[column]))
            kept = [c for c in ("rows", "size", "quota", "kept", "fair_rows", "bound") if c in table.column_names]
            found[name] = table.select(kept).to_pylist()[0] if table.num_rows else None
    return found


def _ratio(run: Run, config: dict[str, Any], key: str, shard: int) -> float | str | None:
    """The ratio that would have kept the row, or why it cannot be told."""
    try:
        settings = make_config(SelectConfig, config, "selection")
        return first_ratio(keeps_at(run, settings, key, shard), settings.ratio)
    except UserError as error:
        return f"cannot be told: {error}"
