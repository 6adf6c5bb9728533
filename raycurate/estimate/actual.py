"""Finished stages of a run beside their estimates: from manifests, no source is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raycurate.errors import UserError
from raycurate.estimate.plan import Planner
from raycurate.estimate.source import read_samples
from raycurate.estimate.stage_estimate import Estimate
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.settings import make_config

PARTS_OF_OTHERS = ("tokens", "predictions", "prints", "scoreboard")
"""Nouns whose seconds belong to the command that needs them, or whose lines are trainings of their own."""


def estimate_run(planner: Planner, run: Run, configs: Mapping[str, Any]) -> list[Estimate]:
    """The estimate of every finished stage, in the order in which they were made, and what each took.

    Args:
        planner: of the cluster and its rates.
        run: the run directory.
        configs: name of a stage -> class of its settings.

    Raises:
        UserError: a folder that is no run directory, or a run of which nothing is finished.
    """
    manifests = know_run(planner, run)
    if not manifests:
        raise UserError(
            f"no stage of {run.uri} is finished, so that nothing can stand beside an estimate. `raycurate status "
            f"{run.uri}` shows what was begun; `raycurate estimate RECIPE` tells what will be taken."
        )
    seconds = _seconds(manifests)
    return [_one(planner, manifest, configs, seconds) for manifest in manifests if manifest.noun not in PARTS_OF_OTHERS]


def know_run(planner: Planner, run: Run) -> list[Manifest]:
    """Tell a planner what a run has: samples, features, clusters, models, selections.

    Args:
        planner: that is told.
        run: the run directory.

    Returns:
        The manifests, samples first, else in the order in which they were made.

    Raises:
        UserError: a folder that is no run directory.
    """
    manifests = [found for noun in run.nouns() if (found := noun.manifest()) is not None]
    manifests.sort(key=lambda manifest: (manifest.noun != "samples", manifest.created))
    for manifest in manifests:
        if manifest.noun == "samples" and manifest.rows_out:
            planner.sources[manifest.label] = read_samples(run.noun("samples", manifest.label), manifest)
        elif manifest.noun == "features" and "dimension" in manifest.metrics:
            planner.features[manifest.label] = (manifest.rows_out, int(manifest.metrics["dimension"]))
        elif manifest.noun == "clusters":
            planner.clusters[manifest.label] = int(manifest.metrics["clusters"])
        elif manifest.noun == "models":
            planner.trained[manifest.label] = str(manifest.description["config"]["model"])
        elif manifest.noun == "selection":
            planner.kept[manifest.label] = int(manifest.metrics.get("kept", manifest.rows_out))
    return manifests


def _seconds(manifests: list[Manifest]) -> dict[tuple[str, str], float]:
    """Wall clock by noun and label; a training's tokens and an evaluation's answers are part of it."""
    found = {(manifest.noun, manifest.label): manifest.seconds for manifest in manifests}
    for manifest in manifests:
        if manifest.noun == "scores":
            key = (manifest.noun, manifest.label)
            found[key] += found.get(("predictions", manifest.label), 0.0)
        if manifest.noun == "models":
            made_from = manifest.description.get("made_from", {})
            key = (manifest.noun, manifest.label)
            found[key] += sum(
                found.get(("tokens", name.partition("/")[2]), 0.0) for name in made_from if name.startswith("tokens/")
            )
    return found


def _one(
    planner: Planner, manifest: Manifest, configs: Mapping[str, Any], seconds: Mapping[tuple[str, str], float]
) -> Estimate:
    stage, label = str(manifest.description.get("stage", manifest.noun)), manifest.label
    actual, name = seconds[manifest.noun, label], f"{manifest.noun}/{label}"
    if manifest.noun == "samples" and not manifest.rows_out:
        return Estimate(stage=stage, label=label, actual=actual, notes=(f"{name} has no rows",))
    # An experiment's description has only what all of its trials depend on; its metrics have all settings.
    values = manifest.metrics.get("config") or manifest.description.get("config")
    if stage not in configs or not isinstance(values, Mapping):
        notes: tuple[str, ...] = (f"{name} is not estimated",)
        return Estimate(stage=stage, label=label, rows=manifest.rows_out, actual=actual, notes=notes)
    try:
        config = make_config(configs[stage], {**values, "label": label}, name)
    except UserError as error:
        return Estimate(stage=stage, label=label, rows=manifest.rows_out, actual=actual, notes=(str(error),))
    found = replace(planner.estimate(stage, stage, config), actual=actual)
    here = set(manifest.metrics.get("rows_by_node", ())) == {""}  # made by the process of the command
    if (stage == "finetune" or here) and found.seconds is not None:  # its clock runs from the first step or batch
        found = replace(found, seconds=found.seconds - found.parts["starting"])
    return found
