"""The stages in order, each resumed where it stopped, and what a run directory says of itself."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.config import ExportConfig
from raycurate.experiments.balance import balance
from raycurate.experiments.compare_weights import compare_weights
from raycurate.experiments.individual_select import individual_select
from raycurate.experiments.sweep import sweep
from raycurate.ray_session import ray_session
from raycurate.recipe import CURATION, Recipe
from raycurate.run.lock import run_lock
from raycurate.run.progress import ALIVE_SECONDS
from raycurate.run.store import Manifest, Noun, Run
from raycurate.selection import build_selector
from raycurate.selection.ranked import Ranked
from raycurate.stages.cluster import cluster
from raycurate.stages.compare import compare
from raycurate.stages.engine.freshness import why_not_current
from raycurate.stages.evaluate import evaluate
from raycurate.stages.export import export
from raycurate.stages.extract import extract
from raycurate.stages.finetune import finetune
from raycurate.stages.ingest import ingest
from raycurate.stages.rank import rank
from raycurate.stages.score import score
from raycurate.stages.select import select

Report = Callable[[Manifest, float], None]
AFTER_CURATION: dict[str, Callable[[Run, Any], Manifest]] = {
    "validation": ingest,
    "test": ingest,
    "balance": balance,
    "compare_weights": compare_weights,
    "finetune": finetune,
    "evaluate": evaluate,
    "compare": compare,
    "individual_select": individual_select,
    "sweep": sweep,
}
TUNED = ("finetune", "compare", "balance", "compare_weights", "individual_select", "sweep")
"""Sections that use Ray Train or Tune, which ask the State API that the dashboard serves."""


def run_recipe(
    recipe: Recipe,
    report: Report | None = None,
    *,
    sections: Sequence[str] = (*CURATION, *AFTER_CURATION),
) -> list[Manifest]:
    """Run the stages that a recipe has. A finished stage with the same fingerprint costs nothing.

    Args:
        recipe: the whole run's config.
        report: called after each stage with its manifest and the seconds that it took now.
        sections: only these of the recipe's sections; what they read must be in the run directory.
    """
    run = Run(recipe.run)
    manifests: list[Manifest] = []
    trains = any(getattr(recipe, name) is not None for name in TUNED if name in sections)
    session = recipe.ray.model_copy(update={"dashboard": recipe.ray.dashboard or trains})
    with run_lock(run.uri), ray_session(session):
        for name, stage in _stages(run, recipe):
            if name not in sections:
                continue
            started = time.monotonic()
            made = stage()
            for manifest in made:
                manifests.append(manifest)
                if report:
                    report(manifest, time.monotonic() - started)
    return manifests


def _stages(run: Run, recipe: Recipe) -> Iterator[tuple[str, Callable[[], list[Manifest]]]]:
    """The sections of a recipe in their order, and what each runs: one noun, several (`score`) or a file."""
    yield "ingest", lambda: [ingest(run, recipe.ingest)]
    yield "extract", lambda: [extract(run, recipe.extract)]
    if recipe.score is not None:
        yield "score", functools.partial(score, run, recipe.score)
    yield "cluster", lambda: [cluster(run, config) for config in (recipe.cluster, *recipe.more_clusters)]
    selector = build_selector(recipe.select.method, recipe.select.options)
    if "ranking" in selector.needs and not isinstance(selector, Ranked):  # those rank for themselves
        yield "rank", lambda: [rank(run, recipe.rank)]
    yield "select", lambda: [select(run, recipe.select)]
    if recipe.export is not None:
        yield "export", functools.partial(_export, run, recipe.export)
    for name, stage in AFTER_CURATION.items():
        config = getattr(recipe, name)
        if config is not None:
            yield name, functools.partial(_one, stage, run, config)


def _one(stage: Callable[[Run, Any], Manifest], run: Run, config: Any) -> list[Manifest]:
    return [stage(run, config)]


def _export(run: Run, config: ExportConfig) -> list[Manifest]:
    export(run, config)
    return []


@dataclass(frozen=True, slots=True)
class NounStatus:
    """One line of ``raycurate status``.

    Attributes:
        name: ``noun/label``.
        state: ``done``, ``stale`` (what it was made from has changed), ``running``, or ``interrupted`` (run the stage
            again to go on).
        rows: rows committed so far.
        total: rows in all, None where it is not known yet.
        quarantined: rejected rows so far.
        seconds: wall clock over all attempts.
        why: of a stale noun what has changed, and the commands that make it again, in their order.
    """

    name: str
    state: str
    rows: int
    total: int | None
    quarantined: int
    seconds: float
    why: str = ""


def status(run: Run) -> list[NounStatus]:
    """What is done, running and left."""
    return [_status_of(noun) for noun in run.nouns()]


def _status_of(noun: Noun) -> NounStatus:
    name = f"{noun.noun}/{noun.label}"
    manifest = noun.manifest()
    if manifest is not None:
        rejected = sum(manifest.quarantined.values())
        why = why_not_current(noun, manifest)
        state = "stale" if why else "done"
        return NounStatus(name, state, manifest.rows_out, manifest.rows_in, rejected, manifest.seconds, why)
    records = noun.records().values()
    beat = noun.read_json("progress.json") or {}
    alive = beat.get("state") == "running" and time.time() - beat.get("time", 0) < ALIVE_SECONDS
    work = noun.read_json("work.json") or {}
    return NounStatus(
        name=name,
        state="running" if alive else "interrupted",
        rows=sum(record.rows_out for record in records),
        total=beat.get("total"),
        quarantined=sum(sum(record.quarantined.values()) for record in records),
        seconds=work.get("seconds", 0.0),
    )
