"""``individual-select``: which candidate datasets to add to a baseline, by trainings with and without each.

    baseline D, all seeds --> mean, sd
    D + c, each candidate --> gain, deltas --rule--> chosen --by category, one after the other--> curve

The arithmetic and its limits are in `balancing/individual_select.py`; the thresholds are settings of this project, as
the paper's (arXiv 2405.11850) are not known. `parallel` tries every candidate on D. `sequential` tries them in the
order given: a chosen one joins D, which is measured again with all seeds before the next; with `top`, the first ones of
a category come first.

A training is a mixture of all baseline rows and the candidates' rows, with one recipe; datasets come in the order of
their names, so that the last model of `sequential` and the steps of the curve are trained once where they are alike.

Cost: seeds + candidates * candidate_seeds trainings, and the curve's steps; `sequential` adds the seeds again for each
dataset that joins. A probe that is in the results table is not run again, in whichever mode it was made. With `soup`
(`soup.py`) the models of the candidates alone stay in the run; they are trained again where they were not kept.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.balancing.individual_select import (
    Baseline,
    Candidate,
    CurveStep,
    Decision,
    curve,
    decide,
    judge,
    measure_baseline,
)
from raycurate.experiments.engine.benchmarks import benchmarks_of
from raycurate.experiments.engine.candidates import Dataset, prepare_candidates
from raycurate.experiments.engine.config import PROBE_DEFAULTS
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.experiments.engine.individual_results import Outcome, Point, Trial, write_outcome
from raycurate.experiments.engine.lines import evaluation_on
from raycurate.experiments.engine.probes import Probe, run_probes
from raycurate.experiments.engine.soup import make_soups
from raycurate.experiments.engine.subsets import trainable_rows
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import names_of
from raycurate.stages.table import version_of
from raycurate.training.config import FinetuneConfig

Job = tuple[tuple[str, ...], int]
"""Names of the datasets on top of the baseline, and a seed."""


@in_session
def individual_select(run: Run, config: IndividualSelectConfig) -> Manifest:
    """Run every training that has no result yet; write `decisions.csv`, `curve.csv`, the report and the figures.

    Raises:
        UserError: data that cannot be read, a wrong setting, or trainings that failed.
    """
    noun = run.noun("individual_select", config.label)
    keep_table(noun, config)
    settings = {**PROBE_DEFAULTS, **config.finetune}
    datasets = {each.name: each for each in prepare_candidates(run, config, settings)}
    rows = sum(trainable_rows(run, settings, config.samples).values())
    samples = required(run.noun("samples", config.samples))
    inputs = {"samples": samples.fingerprint}
    read = names_of([samples])
    description = {
        "stage": "individual-select",
        "stage_version": version_of("individual-select"),
        "inputs": inputs,
        "made_from": read,
    }
    begin(noun, description, replace=config.replace)
    trainer = _Trainer(run, noun, config, settings, datasets)
    baseline, trials = (_parallel if config.mode == "parallel" else _sequential)(trainer)
    points = _curve(trainer, baseline, [trial.decision for trial in trials])
    soups = []
    if config.soup:
        soups = make_soups(run, noun, config, *trainer.models())
    write_outcome(noun, Outcome(config, rows, baseline, datasets, trials, points, soups))
    chosen = [trial.decision.candidate.name for trial in trials if trial.decision.chosen]
    return noun.finish(metrics={"candidates": len(datasets), "chosen": chosen, "config": config.determining()})


@dataclass(frozen=True)
class _Trainer:
    """Trains and scores mixtures of the baseline with candidates."""

    run: Run
    noun: Noun
    config: IndividualSelectConfig
    settings: Mapping[str, Any]
    datasets: Mapping[str, Dataset]

    def scores(self, jobs: Sequence[Job]) -> list[dict[str, float]]:
        """The benchmarks of each training."""
        probes = [self._probe(*job) for job in jobs]
        results = run_probes(self.run, self.noun, "trained", probes, max_concurrent=self.config.max_concurrent)
        return [benchmarks_of(result, self.config.best_values) for result in results]

    def baseline_jobs(self, names: tuple[str, ...] = ()) -> list[Job]:
        """A training for each seed."""
        return [(names, seed) for seed in self.config.seeds]

    def candidate_jobs(self, names: tuple[str, ...]) -> list[Job]:
        """A training for each seed of a candidate."""
        return [(names, seed) for seed in self.config.seeds[: self.config.candidate_seeds]]

    def candidate(self, name: str, found: Sequence[Mapping[str, float]]) -> Candidate:
        """A dataset with the mean of each benchmark over its seeds."""
        dataset = self.datasets[name]
        scores = {task: statistics.fmean(each[task] for each in found) for task in found[0]}
        return Candidate(name, dataset.category, dataset.rows, scores)

    def models(self) -> tuple[dict[str, str], dict[str, float]]:
        """The model trained on the baseline and each dataset alone, with the first seed: its label, and its score."""
        probes = [self._probe((name,), self.config.seeds[0]) for name in self.datasets]
        results = run_probes(self.run, self.noun, "trained", probes, max_concurrent=self.config.max_concurrent)
        found = dict(zip(self.datasets, results, strict=True))
        scores = {
            name: statistics.fmean(benchmarks_of(result, self.config.best_values).values())
            for name, result in found.items()
        }
        return {name: result.label for name, result in found.items()}, scores

    def _probe(self, names: tuple[str, ...], seed: int) -> Probe:
        parts = [{"samples": self.config.samples}, *(self.datasets[name].part for name in sorted(names))]
        own = {"mixture": parts, "mixture_seed": self.config.seeds[0], "seed": seed}
        finetune = make_config(FinetuneConfig, {**self.settings, **own}, "finetune")
        evaluate = evaluation_on(self.config.evaluate, self.config.data)
        kept = bool(self.config.soup) and len(names) == 1 and seed == self.config.seeds[0]
        return Probe(name=f"{'+'.join(names)} {seed}", finetune=finetune, evaluate=evaluate, keep_model=kept)


def _parallel(trainer: _Trainer) -> tuple[Baseline, list[Trial]]:
    """Every candidate on the baseline."""
    jobs = [trainer.baseline_jobs(), *(trainer.candidate_jobs((name,)) for name in trainer.datasets)]
    found = iter(trainer.scores([job for group in jobs for job in group]))
    groups = [[next(found) for _ in group] for group in jobs]
    baseline = measure_baseline(groups[0])
    candidates = [trainer.candidate(name, group) for name, group in zip(trainer.datasets, groups[1:], strict=True)]
    return baseline, [Trial(each, baseline, ()) for each in decide(baseline, candidates, trainer.config.rule)]


def _sequential(trainer: _Trainer) -> tuple[Baseline, list[Trial]]:
    """One candidate after the other on the baseline with those chosen before."""
    first = baseline = measure_baseline(trainer.scores(trainer.baseline_jobs()))
    chosen: tuple[str, ...] = ()
    kept: Counter[str] = Counter()
    trials = []
    for name, dataset in trainer.datasets.items():
        found = trainer.scores(trainer.candidate_jobs((*chosen, name)))
        decision = judge(baseline, trainer.candidate(name, found), trainer.config.rule)
        if decision.chosen and trainer.config.top is not None and kept[dataset.category] >= trainer.config.top:
            reason = f"{decision.reason}, but {trainer.config.top} of '{dataset.category}' came first"
            decision = dataclasses.replace(decision, chosen=False, reason=reason)
        trials.append(Trial(decision, baseline, chosen))
        if decision.chosen:
            kept[dataset.category] += 1
            chosen = (*chosen, name)
            baseline = measure_baseline(trainer.scores(trainer.baseline_jobs(chosen)))
    return first, trials


def _curve(trainer: _Trainer, baseline: Baseline, decisions: Sequence[Decision]) -> list[Point]:
    """The chosen datasets added category by category: the gain measured, and the one that sums would give."""
    steps: list[CurveStep] = curve(decisions)
    jobs = [trainer.candidate_jobs(step.datasets) for step in steps]
    found = iter(trainer.scores([job for group in jobs for job in group]))
    points = []
    for step, group in zip(steps, jobs, strict=True):
        scores = [next(found) for _ in group]
        mean = statistics.fmean(value for each in scores for value in each.values())
        points.append(Point(step, mean, mean - baseline.mean))
    return points
