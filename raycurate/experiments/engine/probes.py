"""Probes: many short trainings that differ in their rows or weights, each scored, as trials on Ray Tune.

    probe = finetune settings + what to score it by     (held-out losses, answers to a test set, or both)
    trial = finetune --> evaluate --> one line of the results table

A probe of one process and no DeepSpeed trains and answers inside its trial, whose process is used again for the next
one: importing torch and transformers, which takes longer than a small training, happens once. Any other probe has its
stages ask the cluster for their own workers. As many probes run at once as the cluster holds, the largest first and
each with as many torch threads as it has CPUs: with a machine's every core for each, two side by side took six times as
long.

A probe's result is kept under the hash of all that determines it: what was killed or failed is run again alone, and a
probe that two experiments share is run once. A failed probe is tried again, then reported, after all others finished.

Cost: the trainings. Memory: one model per trial. A model that no one asked to keep is deleted with its answers once
it has its scores; the table keeps the numbers, and beside it the score of every answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycurate.errors import UserError
from raycurate.evaluation.config import EvaluateConfig
from raycurate.experiments.engine.cost import tell_after_first, tell_before
from raycurate.experiments.engine.lines import make_line, training_seconds
from raycurate.experiments.engine.trials import (
    WAITING_CPUS,
    outside_of_trial,
    result_of,
    run_trials,
    training_slots,
    trials_name,
)
from raycurate.models.source import image_backend, model_fingerprint, resolve_model
from raycurate.ray_session import cluster_cpus, cluster_gpus
from raycurate.run.filesystem import delete_folder, exists
from raycurate.run.manifest import fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.answers import ANSWER_COLUMNS, answer_rows
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import map_tasks
from raycurate.stages.engine.training_rows import sample_labels
from raycurate.stages.evaluate import outside_inputs
from raycurate.stages.finetune import fingerprint_model, prepare
from raycurate.stages.table import version_of
from raycurate.training.config import FinetuneConfig

LABEL = "probe-"
"""What the labels of probes begin with; the rest is the key of the result."""
FINETUNE_OWN = ("label",)
EVALUATE_OWN = ("model", "label")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One training and what it is scored by.

    Attributes:
        name: what it is called in tables and messages.
        finetune: its settings; the label is the probe's own and not looked at.
        evaluate: settings of `evaluate` but model and label; None: held-out losses only.
        keep_model: whether `models/<label>` stays.
    """

    name: str
    finetune: FinetuneConfig
    evaluate: Mapping[str, Any] | None = None
    keep_model: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What a probe came to.

    Attributes:
        label: of its model and scores.
        rows: rows that were trained on.
        steps: optimizer steps.
        loss: weighted mean loss over the training.
        tasks: rows, tokens, loss, weight, gradient share by task.
        held_out: `loss` and `tokens` by task.
        scores: task -> metric -> number; empty without an evaluation.
        headlines: task -> metric -> whether higher is better.
        training_seconds: wall clock, with the tokenisation of a selection of its own.
        evaluation_seconds: wall clock.
    """

    label: str
    rows: int
    steps: int
    loss: float
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    held_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    headlines: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0


def run_probes(
    run: Run,
    noun: Noun,
    phase: str,
    probes: Sequence[Probe],
    *,
    max_concurrent: int | None = None,
    done: Callable[[Probe, ProbeResult], None] | None = None,
) -> list[ProbeResult]:
    """The results of all probes, in their order; those that are in the table are not run.

    Args:
        run: holds the samples, and the models while they are needed.
        noun: begun; holds the results table.
        phase: name of the table.
        probes: all with the same number of workers and GPUs.
        max_concurrent: probes at once, where the cluster would hold more.
        done: told of each probe that is run here, when its result is there.

    Raises:
        UserError: a wrong setting, before any training; or probes that failed, with the reason of the first.
    """
    if not probes:
        return []
    first = probes[0].finetune
    alike = ("workers", "cpus_per_worker", "gpus_per_worker", "deepspeed")
    assert all(getattr(p.finetune, name) == getattr(first, name) for p in probes for name in alike)
    probes = [on_own_cpus(probe) for probe in probes]
    models = _fingerprints([probe.finetune for probe in probes])
    keys = [_key(run, probe, models[probe.finetune.model]) for probe in probes]
    by_key = dict(zip(keys, probes, strict=True))
    _forget_lost(run, noun, phase, by_key)
    for probe in by_key.values():
        if probe.evaluate is not None:
            _evaluate_config(probe, "checked")
    _tokenize_once(run, [probe.finetune for probe in by_key.values()])
    here = first.workers == 1 and first.deepspeed is None

    def work(key: str) -> dict[str, Any]:
        return asdict(_train_and_score(run, noun, phase, by_key[key], key, here))

    missing = [key for key in by_key if result_of(noun, phase, key) is None]
    if here:
        gpus = first.gpus_per_worker if first.gpus_per_worker is not None else float(cluster_gpus() > 0)
        shape: dict[str, Any] = {"cpus": first.cpus_per_worker, "gpus": gpus}
        slots = int(cluster_gpus() / gpus if gpus else cluster_cpus() / first.cpus_per_worker)
    else:
        slots = training_slots(first.workers, first.cpus_per_worker, first.gpus_per_worker)
        max_concurrent = min(slots, max_concurrent or slots)
        shape = {"cpus": WAITING_CPUS}
    at_once = max(1, min(slots, max_concurrent or slots, len(missing)))
    trainings = [(by_key[key].finetune, by_key[key].evaluate) for key in missing]
    gpus_each = float(cluster_gpus() > 0) if first.gpus_per_worker is None else first.gpus_per_worker
    name = trials_name(phase, list(by_key))
    each = tell_before(noun, name, run, trainings, at_once, gpus_each, first.workers * first.cpus_per_worker)
    costs = dict(zip(missing, each, strict=True))
    tell = tell_after_first(noun, name, costs, at_once)

    def told(key: str, value: Mapping[str, Any]) -> None:
        tell(key, value)
        if done is not None:
            done(by_key[key], ProbeResult(**value))

    # The largest first: one that begins last is waited for alone.
    order = sorted(by_key, key=lambda key: -costs.get(key, 0.0))
    trial = work if here else lambda key: outside_of_trial(work, key)
    found = run_trials(noun, phase, order, trial, max_concurrent=max_concurrent, done=told, **shape)
    results = {key: ProbeResult(**value) for key, value in zip(order, found, strict=True)}
    return [results[key] for key in keys]


def answers_of(noun: Noun, phase: str, result: ProbeResult) -> Iterator[dict[str, Any]]:
    """The answers of a probe question by question; none where they were not kept, as of an external evaluator."""
    name = _answers_file(phase, result.label.removeprefix(LABEL))
    if exists(noun.filesystem, f"{noun.folder}/{name}"):
        yield from answer_rows([noun.read_table(name)])


def _answers_file(phase: str, key: str) -> str:
    return f"answers/{phase}/{key}.parquet"


def on_own_cpus(probe: Probe) -> Probe:
    """The probe with the torch threads that its CPUs carry, where its settings leave them open."""
    config = probe.finetune
    threads = config.threads or max(1, int(config.cpus_per_worker))
    return replace(probe, finetune=config.model_copy(update={"threads": threads}))


def _fingerprints(configs: Sequence[FinetuneConfig]) -> dict[str, str]:
    """What the files of each model are now, by its name."""
    found: dict[str, str] = {}
    for config in configs:
        if config.model not in found:
            source = resolve_model(config.model)
            local = Path(source).is_dir()
            found[config.model] = (
                model_fingerprint(source, None)
                if local
                else next(map_tasks(fingerprint_model, [(config,)], num_cpus=0.5))
            )
    return found


def _key(run: Run, probe: Probe, model: str) -> str:
    """The hash of all that determines a probe's result: settings, data, the model's files, the code."""
    given = probe.evaluate or {}
    labels = [*sample_labels(probe.finetune), *([given["data"]] if given.get("data") else [])]
    inputs: dict[str, Any] = {label: required(run.noun("samples", label)).fingerprint for label in labels}
    parts = [*(probe.finetune.mixture or ()), *(probe.finetune.held_out or ())]
    nouns = [run.noun("clusters", part.clusters) for part in parts if part.clusters]
    if probe.finetune.mixture is None and probe.finetune.selection is not None:
        nouns.append(run.noun("selection", probe.finetune.selection))
    if probe.finetune.score_net is not None:
        nouns.append(run.noun("features", probe.finetune.score_net))
    inputs |= {f"{noun.noun}/{noun.label}": required(noun).fingerprint for noun in nouns}
    inputs |= {"model": model, "image_backend": image_backend(), **outside_inputs(given)}
    inputs["versions"] = [version_of(stage) for stage in ("tokenize", "finetune", "predict", "evaluate")]
    configs = [probe.finetune.determining(), _evaluate_config(probe, "probe").determining() if given else None]
    return fingerprint_of({"configs": configs, "inputs": inputs, "kept": probe.keep_model})[:16]


def _forget_lost(run: Run, noun: Noun, phase: str, probes: Mapping[str, Probe]) -> None:
    """Drop results whose kept model was deleted or harmed since, so that it is trained again."""
    for key, probe in probes.items():
        model = run.noun("models", f"{LABEL}{key}")
        if probe.keep_model and result_of(noun, phase, key) is not None:
            manifest = model.manifest()
            if manifest is None or model.lost_files(manifest):
                noun.filesystem.delete_file(f"{noun.folder}/{phase}/{key}.json")


def _evaluate_config(probe: Probe, label: str) -> EvaluateConfig:
    given = dict(probe.evaluate or {})
    if taken := sorted(set(EVALUATE_OWN) & set(given)):
        raise UserError(f"evaluate.{taken[0]} is set by the probe itself")
    return EvaluateConfig(**given, model=f"models/{label}", label=label)


def _tokenize_once(run: Run, configs: Sequence[FinetuneConfig]) -> None:
    """Make the tokens that probes share, before they look for them at the same time."""
    seen: set[str] = set()
    for config in configs:
        asked = {"rows": [config.mixture, config.held_out, config.samples, config.selection, config.limit]}
        asked["how"] = [config.model, config.max_length, config.overlong, config.seed if config.limit else None]
        name = fingerprint_of(asked)
        if name not in seen:
            seen.add(name)
            prepare(run, config)


def _train_and_score(run: Run, table: Noun, phase: str, probe: Probe, key: str, here: bool) -> ProbeResult:
    label = f"{LABEL}{key}"
    config = probe.finetune.model_copy(update={"label": label})
    scored_as = None if probe.evaluate is None else _evaluate_config(probe, label)
    trained, scored = make_line(run, config, scored_as, in_process=here)
    if scored.manifest is not None and (parts := list(run.noun("scores", label).iter_parts(ANSWER_COLUMNS))):
        table.write_table(_answers_file(phase, key), pa.concat_tables(parts))
    result = ProbeResult(
        label=label,
        rows=trained.rows_out,
        steps=int(trained.metrics["steps"]),
        loss=float(trained.metrics["loss"]),
        tasks=trained.metrics["tasks"],
        held_out=trained.metrics["held_out"],
        scores=scored.scores,
        headlines=scored.headlines,
        training_seconds=training_seconds(run, trained),
        evaluation_seconds=scored.seconds,
    )
    for name in ("predictions", "scores", *(() if probe.keep_model else ("models",))):
        noun = run.noun(name, label)
        delete_folder(noun.filesystem, noun.folder)
    return result
