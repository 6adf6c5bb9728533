"""``cluster --extend``: rows that came since the fit, at the centroids that stand, and a new fit from there.

    clusters of features F  --F has grown-->  extended: parts of new shards at the centroids that stand
                                              |  more than `refit_share` of them fit badly
                                              v
                                              re-fitted: k-means over all rows, begun at those centroids

A new row fits badly where it is less similar to its centroid than 99 % of the rows that the centroids were fitted on:
if both kinds of rows are alike, that is one in a hundred. All rows since that fit are judged, not those of the last
append alone, so that a slow drift adds up. A fit that begins at the standing centroids keeps the number of a cluster
for as long as the cluster stays where it is; it depends on the way that led there, and is not the fit of all at once.

The description says which: an extension has the features that were fitted on and their shards under ``fitted``, a new
fit has what it began at under ``start``. `cluster` without ``extend`` fits all rows anew. The standing centroids become
the checkpoint of a fit that is over, or of one before its first iteration: then a fit goes on from it as after a kill.

Cost: 2 n K D FLOP for n new rows, and reading the similarities of all; a new fit what any fit costs, with fewer
iterations. Limit: after a random projection the centroids that the fit used are not kept: such clusters are made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raycurate.clustering.similarities import SimilarityCounts
from raycurate.errors import UserError
from raycurate.run.filesystem import list_files
from raycurate.run.manifest import Manifest, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.fit_state import CHECKPOINT, FitState
from raycurate.stages.engine.growth import earlier_states

CENTROIDS = "centroids.parquet"
LOW = 0.01
"""The part of the rows fitted on below which a new row fits badly."""


def extended(noun: Noun, asked: Mapping[str, Any], features: Manifest) -> dict[str, Any] | None:
    """The description of the clusters that are there with the features' new rows; None where they cannot be kept.

    Args:
        noun: the clusters, made or being made.
        asked: the description of a fit of all rows.
        features: that have grown.

    Raises:
        UserError: clusters of a projection.
    """
    manifest, work = noun.manifest(), noun.read_json("work.json")
    before = manifest.description if manifest is not None else (work or {}).get("description")
    if before is None or _but_for_inputs(before) != _but_for_inputs(asked):
        return None
    inputs = before["inputs"]
    if inputs["features"] == features.fingerprint:
        return dict(before)
    if manifest is None or inputs["features"] not in earlier_states(Run(noun.run_uri), features.description):
        return None
    if asked["config"].get("project") is not None:
        raise UserError(
            f"'clusters/{noun.label}' were fitted in a projection (project={asked['config']['project']}), whose "
            "centroids are not kept: run `raycurate cluster` without --extend, which fits all rows anew."
        )
    fitted = inputs.get("fitted") or [inputs["features"], manifest.shards]
    return {**asked, "inputs": {**inputs, "features": features.fingerprint, "fitted": fitted}}


def _but_for_inputs(description: Mapping[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(dict(description)))
    return {name: each for name, each in value.items() if name not in ("inputs", "made_from")}


def begin_extension(noun: Noun, description: Mapping[str, Any]) -> None:
    """Keep the parts and the centroids of clusters, and make the parts that are missing."""
    state = FitState.load(noun)
    if state.of != fingerprint_of(description):
        state = _at_standing(noun, description)
        state.fitted = True
        state.save(noun)
    noun.extend(description)


def begin_refit(noun: Noun, extension: Mapping[str, Any], fit_of_new: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a fit of all rows at the standing centroids; its description."""
    inputs = {"features": extension["inputs"]["features"], "start": fingerprint_of(extension)}
    description = {**extension, "inputs": inputs}
    state = _at_standing(noun, description)
    state.fit_of_new = dict(fit_of_new)
    state.save(noun)
    noun.extend(description)
    go_on(noun)
    return description


def go_on(noun: Noun) -> None:
    """Drop the parts that were made of earlier centroids, where a new fit has not iterated yet."""
    state = FitState.load(noun)
    if state.of and not state.fitted and state.upcoming == 0:
        for info in (
            *list_files(noun.filesystem, noun.folder, ".parquet"),
            *list_files(noun.filesystem, f"{noun.folder}/records"),
        ):
            if info.base_name != CENTROIDS:
                noun.filesystem.delete_file(info.path)


def _at_standing(noun: Noun, description: Mapping[str, Any]) -> FitState:
    """The state of a fit that has the standing centroids for its first ones."""
    state = FitState(pieces=1, of=fingerprint_of(description))
    state.sizes = noun.read_table(CENTROIDS, ["size"])["size"].to_pylist()
    noun.filesystem.create_dir(f"{noun.folder}/{CHECKPOINT}")
    noun.filesystem.copy_file(f"{noun.folder}/{CENTROIDS}", f"{noun.folder}/{state.name}-0000.parquet")
    return state


def fit_of_new_rows(noun: Noun, fitted_shards: int, shards: int) -> dict[str, Any]:
    """How well rows that came since the fit lie at its centroids, against the rows that were fitted on."""
    fitted, new = SimilarityCounts(), SimilarityCounts()
    for shard in range(shards):
        similarity_N = noun.read_part(shard, ["similarity"])["similarity"].to_numpy()
        (fitted if shard < fitted_shards else new).add(similarity_N)
    low = fitted.quantile(LOW) if fitted.rows else -1.0
    return {
        "new_rows": new.rows,
        "similarity": new.mean,
        "similarity_fitted": fitted.mean,
        "low": low,
        "share_low": new.share_below(low),
    }


def told(fit: Mapping[str, Any]) -> str:
    """The same as a line."""
    return (
        f"{fit['new_rows']:,} rows since the fit: mean similarity {fit['similarity']:.4f}, of the rows fitted on "
        f"{fit['similarity_fitted']:.4f}; {fit['share_low']:.1%} of them are less similar than 99 % of those "
        f"({fit['low']:.4f})"
    )
