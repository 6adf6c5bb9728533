"""Whether all nodes of a cluster see what lies on the driver's disk: the run directory, images, models.

A path of the driver's own disk means nothing on another node, or worse, something else. So before a stage reads
anything, a task on every node looks for the run's name in the run directory (`run.json`), and for each other path of
the settings that is there for the driver. Nothing is asked where there is one node, or of paths on object stores.

Cost: one tiny task per node, side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycurate.errors import UserError
from raycurate.run.paths import image_roots
from raycurate.run.store import Run

SECONDS = 60.0
"""Longest wait for a node's answer; one that does not answer is not judged."""
SETTINGS = ("source", "images", "model", "clip", "given", "task_map", "annotations", "deepspeed")
"""Names of settings that may be paths."""


def check_nodes_see(run: Run, config: Any) -> None:
    """Raise `UserError` for a node that does not see what the driver sees: which node, which path, what to do."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    paths = paths_of(config)
    run_id = run.id if run.uri.startswith("/") else None
    if not paths and run_id is None:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(missing_here)
    asked = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=here).remote(run.uri, run_id, paths)] = node
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS)
    for reference in late:
        ray.cancel(reference, force=True)
    for reference in ready:
        node = asked[reference]
        try:
            missing = ray.get(reference)
        except (ray.exceptions.RayError, OSError):
            continue  # a node that has just left
        if missing:
            raise UserError(_told(missing, f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", run))


def paths_of(config: Any) -> dict[str, str]:
    """The settings of a config that are paths of the driver's disk and are there, by name."""
    values = {name: getattr(config, name, None) for name in SETTINGS}
    roots = image_roots(values["images"])
    if len(roots) > 1:
        values.update({f"images ({each})": each for each in roots}, images=None)
    found = {name: value for name, value in values.items() if isinstance(value, str) and value.startswith("/")}
    return {name: path for name, path in found.items() if os.path.exists(path)}


def missing_here(run_uri: str, run_id: str | None, paths: Mapping[str, str]) -> list[tuple[str, str]]:
    """(setting, path) of what this node does not see; the run directory has to be the very same."""
    missing = [(name, path) for name, path in paths.items() if not os.path.exists(path)]
    if run_id is not None and (not os.path.isfile(f"{run_uri}/run.json") or Run(run_uri).id != run_id):
        missing.insert(0, ("run", run_uri))
    return missing


def _told(missing: Sequence[tuple[str, str]], node: str, run: Run) -> str:
    name, path = missing[0]
    what = "the run directory" if name == "run" else f"{name}"
    more = f" (and {len(missing) - 1} further paths)" if len(missing) > 1 else ""
    place = "--out or RUN" if name == "run" else f"--{name} or --set {name}="
    return (
        f"the node {node} does not see {what} {path}{more}, which the driver of {run.uri} sees on its own disk. Put it "
        "on a disk that all nodes mount at the same place, or on an object store (s3://..., gs://...), and give that "
        f"path ({place})."
    )
