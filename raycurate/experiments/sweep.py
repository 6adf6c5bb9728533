"""``sweep``: a grid of selections that share features, clusters and ranking; each measured, and trained if asked.

    features, clusters --once--> ranking, sketches
    trial (Tune): select, in its own process --> selection/<label> --> its statistics
    probe (Tune, with `finetune`): finetune --> evaluate (`probes.py`); its model is not kept
    sweeps/<label>: results.csv, results.json, tasks.csv, overlap.csv, timings.csv, figures/; with `finetune` also
                    scoreboard.md, evidence.json

A trial's result is kept under the hash of all that determines it: a sweep that was killed, or that is asked for more
points, runs what is missing only and ends with the same table as one that was not disturbed. Wall-clock seconds are in
`timings.csv` alone. Selections are trained in full or not at all: nothing that a training reports before its end can be
compared between different selections, as its loss is over other rows, so no trial is stopped early.

Cost of one more point: N rows of about 60 bytes and the sketches, read once by one process.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from raycurate.evaluation.evidence import Answers
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.cost import tell_after_first, tell_selections
from raycurate.experiments.engine.grid import Trial, grid
from raycurate.experiments.engine.lines import needs_of, seconds_of
from raycurate.experiments.engine.measure import Reference, count_shared, measure_selection
from raycurate.experiments.engine.probes import Probe, ProbeResult, answers_of, run_probes
from raycurate.experiments.engine.results import Outcome, Sweep, write_results
from raycurate.experiments.engine.trials import result_of, run_trials, trials_name
from raycurate.ray_session import cluster_cpus, in_session
from raycurate.run.manifest import Manifest, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.selection import build_selector
from raycurate.selection.coverage import jaccard
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import describe, map_here
from raycurate.stages.select import select, select_inputs
from raycurate.stages.selecting.weights import check_shares
from raycurate.stages.sketch import SketchConfig, sketch
from raycurate.stages.table import version_of

MEASURED, TRAINED = "measured", "trained"
GRID = ("methods", "temperatures", "ratios", "seeds", "full_seeds")
log = logging.getLogger("raycurate")


@in_session
def sweep(run: Run, config: SweepConfig) -> Manifest:
    """Run every trial that has no result yet, and write the tables and figures.

    Raises:
        UserError: an unknown method or setting, before any work; or trials that failed.
    """
    return finish_sweep(*run_sweep(run, config))


def finish_sweep(noun: Noun, swept: Sweep) -> Manifest:
    """Write the tables and figures of a sweep whose trials are done."""
    write_results(noun, swept, sweep_answers(noun, swept))
    return noun.finish(metrics={"trials": len(swept.outcomes), "config": swept.config.determining()})


def run_sweep(run: Run, config: SweepConfig) -> tuple[Noun, Sweep]:
    """Run every trial that has no result yet; the noun, begun and not finished, and what the trials came to."""
    trials = grid(config)
    noun = run.noun("sweeps", config.label)
    keep_table(noun, config, GRID)
    samples = required(run.noun("samples", config.samples))
    for trial in trials:
        _check(run, trial)
    reference = _reference(run, config)
    begin(noun, _description(config, samples, reference), replace=config.replace)
    chosen = [trial for trial in trials if not trial.is_full]
    keys = [_key(run, trial, reference) for trial in chosen]
    _forget_lost(run, config, dict(zip(keys, chosen, strict=True)))
    measured = _measure(run, config, dict(zip(keys, chosen, strict=True)), reference)
    nouns = [run.noun("selection", trial.label) for trial in chosen]
    overlap = jaccard(count_shared(nouns, samples.shards)).tolist() if nouns else []
    found = {trial.label: value for trial, value in zip(chosen, measured, strict=True)}
    trained = _train(run, config, trials)
    outcomes = [
        Outcome(
            trial,
            found.get(trial.label),
            trained.get(trial.label),
            _shared_seconds(run, trial) if trained else {},
        )
        for trial in trials
    ]
    return noun, Sweep(config, outcomes, overlap, dict(samples.metrics["tasks"]))


def _check(run: Run, trial: Trial) -> None:
    """Find a wrong setting before the first trial runs, and make what the trial's selection needs."""
    if trial.sweep.finetune is not None:
        _ = trial.finetune_config
        if "command" not in trial.sweep.evaluate:
            required(run.noun("samples", trial.sweep.data))
    if not trial.is_full:
        config = trial.select_config
        check_shares(config, build_selector(config.method, config.options))


def _reference(run: Run, config: SweepConfig) -> Reference | None:
    """Clusters and sketches of all rows; None in a run without clusters."""
    clusters = run.noun("clusters", config.clusters)
    manifest = clusters.manifest()
    if manifest is None:
        log.info("sweep: no clusters/%s in this run: no cluster coverage and no MMD", config.clusters)
        return None
    features = manifest.description["config"]["features"]
    values = {
        "frequencies": config.frequencies,
        "sigma": config.sigma,
        "features": features,
        "label": f"{features}-{config.frequencies}-{config.sigma:g}",
    }
    made = sketch(run, make_config(SketchConfig, values, "sketch"))
    return Reference(clusters, run.noun("sketches", made.label))


def _description(config: SweepConfig, samples: Manifest, reference: Reference | None) -> dict[str, Any]:
    """What all results of the sweep depend on: not the grid, so that a larger one keeps the results of the smaller."""
    read = [samples, *([] if reference is None else [required(reference.clusters)])]
    inputs = {manifest.noun: manifest.fingerprint for manifest in read}
    description = describe("sweep", config, inputs, read)
    fixed = {name: description["config"][name] for name in ("samples", "clusters", "frequencies", "sigma")}
    return {**description, "config": fixed}


def _key(run: Run, trial: Trial, reference: Reference | None) -> str:
    """The hash of all that determines a selection and its statistics."""
    measured_by = None if reference is None else reference.sketches.require("sweep").fingerprint
    inputs: dict[str, Any] = {"select": select_inputs(run, trial.select_config), "sketches": measured_by}
    inputs["versions"] = [version_of("sweep"), version_of("select")]
    return fingerprint_of({"config": trial.select_config.determining(), "inputs": inputs})[:16]


def _forget_lost(run: Run, config: SweepConfig, trials: dict[str, Trial]) -> None:
    """Drop results whose selection was deleted, replaced or harmed since, so that they are made again."""
    noun = run.noun("sweeps", config.label)
    for key, trial in trials.items():
        result, selection = result_of(noun, MEASURED, key), run.noun("selection", trial.label)
        manifest = selection.manifest()
        whole = manifest is not None and not selection.lost_files(manifest)
        if result is not None and (manifest is None or not whole or manifest.fingerprint != result["selection"]):
            noun.filesystem.delete_file(f"{noun.folder}/{MEASURED}/{key}.json")


def _measure(
    run: Run, config: SweepConfig, trials: dict[str, Trial], reference: Reference | None
) -> list[dict[str, Any]]:
    """Select and measure; in the order of the trials."""

    def work(key: str) -> dict[str, Any]:
        trial, started = trials[key], time.monotonic()
        selected = select(run, trial.select_config, map_here)
        between = time.monotonic()
        found = measure_selection(run.noun("selection", trial.label), selected, reference)
        seconds = {"selection": between - started, "statistics": time.monotonic() - between}
        return {**found, "label": trial.label, "seconds": seconds}

    noun = run.noun("sweeps", config.label)
    left = [key for key in trials if result_of(noun, MEASURED, key) is None]
    slots = max(1, int(cluster_cpus() / config.cpus_per_trial))
    at_once = max(1, min(slots, config.max_concurrent or slots, len(left)))
    name = trials_name(MEASURED, list(trials))
    tell_selections(noun, name, run.noun("samples", config.samples).require("ingest").rows_out, len(left), at_once)
    told = tell_after_first(noun, name, dict.fromkeys(left, 1.0), at_once)
    at_most, cpus = config.max_concurrent, config.cpus_per_trial
    return run_trials(noun, MEASURED, list(trials), work, cpus=cpus, max_concurrent=at_most, done=told)


def _train(run: Run, config: SweepConfig, trials: list[Trial]) -> dict[str, ProbeResult]:
    """Finetune and evaluate each trial's selection; the results by the label of its selection."""
    if config.finetune is None:
        return {}
    probes = [
        Probe(name=trial.label, finetune=trial.finetune_config, evaluate=trial.evaluate_settings) for trial in trials
    ]
    noun = run.noun("sweeps", config.label)
    found = run_probes(run, noun, TRAINED, probes, max_concurrent=config.max_concurrent)
    return {trial.label: result for trial, result in zip(trials, found, strict=True)}


def sweep_answers(noun: Noun, swept: Sweep) -> Answers:
    """What every trained trial answered, question by question."""
    found, columns = Answers(), swept.columns
    for outcome in swept.outcomes:
        if outcome.trained is not None:
            rows = answers_of(noun, TRAINED, outcome.trained)
            found.add(outcome.trial.group, outcome.trial.seed, rows, columns)
    return found


def _shared_seconds(run: Run, trial: Trial) -> dict[str, float]:
    """Wall clock of what the trial's selection needs beforehand, by noun, as if it had been made for it alone."""
    if trial.is_full:
        return {}
    return seconds_of(needs_of(run, trial.select_config))
