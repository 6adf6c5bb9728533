"""``finetune``: train the target model on the kept rows with Ray Train, write the ``models`` noun.

    tokens --TorchTrainer: one VitwTrainer per worker, DDP or DeepSpeed--> models/<label>/{final, history.json}
    final --one task, where asked--> models/<label>/merged

A process that is there already can train by itself instead (`in_process`): many short trainings then start it once.

Ray Train places the workers and connects them; the training itself is `training/loop.py`, which knows no Ray. A group
that lost a worker is started again, one with an error that would come again is not (`training/faults.py`). A restarted
group goes on from the last complete checkpoint, and so does a run that is started again: the checkpoints lie in the
noun's folder until it is finished. Every row is counted once, however often that happened. Checkpoints do not pass
through Ray's storage, which would copy them once more on every rank.

The run directory must be reachable under the same URI from every machine. On a shared folder checkpoints are written
in place; on an object store they are written locally and copied (`training/mirror.py`).

Cost: the trainer's; starting a worker takes about as long as importing torch and transformers. Memory per worker: the
model's states, one batch, 16 bytes per row, and the image cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.train

from raycurate.errors import UserError
from raycurate.estimate.rates import Rates
from raycurate.estimate.training import trainer_work
from raycurate.estimate.work import Work
from raycurate.ray_session import cluster_cpus, cluster_gpus, in_session, quiet_library
from raycurate.run.filesystem import delete_folder, exists, or_null, resolve
from raycurate.run.manifest import Manifest
from raycurate.run.progress import Progress
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.foreseen import ModelSize, foresee, size_of
from raycurate.stages.engine.lineage import begin, keep_unless, required
from raycurate.stages.engine.shards import MapShards, describe, map_here, map_tasks, skip_if_done
from raycurate.stages.engine.training_order import order_source
from raycurate.stages.engine.training_rows import TrainingRows, sample_labels, training_rows
from raycurate.stages.score_net import score_features, write_difficulties
from raycurate.stages.workers.finetune import (
    FAULT_FILE,
    POLL_SECONDS,
    STEP_FILE,
    Order,
    remove_local_files,
    train_here,
    train_on_worker,
)
from raycurate.stages.workers.merge import write_merged
from raycurate.training.config import FinetuneConfig
from raycurate.training.faults import memory_advice
from raycurate.training.weights import weights_of

log = logging.getLogger("raycurate")


@in_session
def finetune(run: Run, config: FinetuneConfig, *, in_process: bool = False) -> Manifest:
    """Write the ``models`` noun: ``final`` (model or adapter, with processor), ``merged``, ``history.json``, logs.

    Args:
        run: where everything is read and written.
        config: the settings.
        in_process: train in this process, without Ray Train; for one worker without DeepSpeed.

    Raises:
        UserError: a wrong setting, weights that do not fit the tasks, or a training that failed for good.
    """
    assert not in_process or (config.workers == 1 and config.deepspeed is None), "one process has no process group"
    noun = run.noun("models", config.label)
    keep_unless(noun, {"config": config.determining()}, replace=config.replace)
    gpus = _gpus(config)
    _check(config, gpus)
    features = score_features(run, config)
    row_order, ordered_by = order_source(run, config)
    rows, weights, fingerprint, size = _rows(run, config, map_here if in_process else map_tasks, sized=not in_process)
    inputs, read = {**rows.inputs, "model": fingerprint}, list(rows.read)
    if features is not None:
        scored = features.require("score")
        inputs["score_features"] = scored.fingerprint
        read.append(scored)
    if ordered_by:
        inputs["order"] = [each.fingerprint for each in ordered_by]
        read += ordered_by
    description = describe("finetune", config, inputs, read)
    if done := skip_if_done(noun, description):
        return _with_difficulties(run, config, done)
    begin(noun, description, replace=config.replace)
    if size is not None:
        foresee(noun, functools.partial(_work, config, rows.rows_out, size, gpus > 0), gpus)
    _tell_wait(config, gpus, in_process)
    order = Order(
        config=config,
        noun=noun,
        sources=rows.sources,
        held_out=rows.held_out,
        score_features=features,
        row_order=row_order,
        tasks=rows.tasks,
        weights=weights,
        on_gpu=gpus > 0,
        run_id=run.id,
    )
    if in_process:
        with _watch(noun):
            outcome = train_here(order)
    else:
        try:
            outcome = _fit(run, order, gpus)
        finally:
            remove_local_files(order)
    if config.merge and config.method == "lora":
        write_merged(order, outcome["parameters"], in_process=in_process)
    noun.write_json("history.json", or_null(outcome.pop("history")))  # a gradient norm may be infinite
    noun.write_json("tasks.json", outcome["tasks"])
    manifest = _finish(noun, rows, outcome)
    # They hold the optimizer's state, several times the model, and nobody goes on from them any more.
    delete_folder(noun.filesystem, f"{noun.folder}/checkpoints")
    return _with_difficulties(run, config, manifest)


def _work(config: FinetuneConfig, rows: int, size: ModelSize, on_card: bool, rates: Rates) -> Work:
    return trainer_work(rows, size.source, size.tokens, size.geometry, rates, config, on_card=on_card)


def _with_difficulties(run: Run, config: FinetuneConfig, made: Manifest) -> Manifest:
    """The manifest, once the rows are scored where a score-net was trained."""
    if config.score_net is not None:
        write_difficulties(run, config, made)
    return made


def prepare(run: Run, config: FinetuneConfig) -> TrainingRows:
    """Check the settings and tokenise, as `finetune` does before it trains."""
    _check(config, _gpus(config))
    return _rows(run, config, map_tasks)[0]


def _gpus(config: FinetuneConfig) -> float:
    return config.gpus_per_worker if config.gpus_per_worker is not None else float(cluster_gpus() > 0)


def _rows(
    run: Run, config: FinetuneConfig, map_shards: MapShards, *, sized: bool = False
) -> tuple[TrainingRows, tuple[float, ...], str, ModelSize | None]:
    """The rows, the weight of each of their tasks, the fingerprint of the model, and its size where that is asked."""
    samples = run.noun("samples", config.samples) if sized and config.mixture is None else None
    fingerprint, size = next(map_shards(look_at_model, [(config, samples)], num_cpus=0.5))
    sample_tasks: dict[str, int] = {}
    for label in sample_labels(config):
        sample_tasks |= required(run.noun("samples", label)).metrics["tasks"]
    if config.weights is not None:
        _check_names(config.weights, sample_tasks)
    rows = training_rows(run, config, fingerprint, map_shards)
    return rows, tuple(weights_of(rows.tasks, config.weights, known=sample_tasks).tolist()), fingerprint, size


def _check(config: FinetuneConfig, gpus: float) -> None:
    """Settings that can be refused before any work."""
    if config.deepspeed is not None:
        from raycurate.training.deepspeed import deepspeed_config

        deepspeed_config(config.deepspeed, bf16=False)
    available = cluster_gpus()
    # A number of GPUs that was asked for is a demand: an autoscaler may still have to start the nodes.
    if config.gpus_per_worker is None and gpus * config.workers > available:
        raise UserError(
            f"{config.workers} workers of {gpus:g} GPUs need {gpus * config.workers:g} GPUs, the cluster has "
            f"{available:g}. Lower workers; on an autoscaling cluster set gpus_per_worker, which waits for its nodes."
        )


def _tell_wait(config: FinetuneConfig, gpus: float, in_process: bool) -> None:
    """Say that workers wait for processors that are not there yet, rather than wait in silence."""
    needed, there = config.workers * config.cpus_per_worker, cluster_cpus()
    if not in_process and not gpus and needed > there:
        log.warning(
            "finetune: %d workers with %g CPUs each need %g, the cluster has %g: they wait for more nodes, at most "
            "%g s at each start. Without an autoscaler lower workers or cpus_per_worker",
            config.workers,
            config.cpus_per_worker,
            needed,
            there,
            config.start_seconds,
        )


def _check_names(weights: dict[str, float], sample_tasks: dict[str, int]) -> None:
    """Find a misspelt task before anything is tokenised."""
    weights_of([task for task in sample_tasks if task in weights], weights, known=sample_tasks)


def fingerprint_model(config: FinetuneConfig) -> str:
    """Hash of the model's files, whose processor is asked before a row is read; a task, as it imports transformers."""
    return look_at_model(config)[0]


def look_at_model(config: FinetuneConfig, samples: Noun | None = None) -> tuple[str, ModelSize | None]:
    """The same, and what training it on some samples costs by."""
    from transformers import AutoConfig

    from raycurate.encoding.probe import check_processor
    from raycurate.models.adapter import check_supported, load_processor
    from raycurate.models.source import model_fingerprint, resolve_model

    source = resolve_model(config.model)
    try:
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model '{config.model}': {str(error).splitlines()[0]}") from None
    check_supported(config.model, model_config)
    processor = load_processor(config.model, trust_remote_code=config.trust_remote_code)
    check_processor(processor, config.model, model_config)
    size = None
    if samples is not None and samples.manifest() is not None:
        size = size_of(model_config, processor, config.model, samples, trust_remote_code=config.trust_remote_code)
    return model_fingerprint(source, model_config), size


def _fit(run: Run, order: Order, gpus: float) -> dict[str, Any]:
    """Run the workers to the end, again after a loss; the outcome of rank 0.

    Ray Train itself starts the group again after any error. Here only what may go well the next time counts as a loss
    (`training/faults.py`): the workers leave word of an error that would come again.
    """
    noun, failures, allowed = order.noun, 0, order.config.max_failures
    filesystem, _ = resolve(run.uri)
    fault = f"{noun.folder}/{FAULT_FILE}"
    _delete_file(filesystem, fault)
    with _quiet_train(order.config.start_seconds), _watch(noun):
        while True:
            try:
                outcome = _trainer(run, order, gpus).fit().return_value
                break
            except ray.train.TrainingFailedError as error:
                if told := noun.read_json(FAULT_FILE):
                    raise UserError(told) from error
                if _ended_for_memory(error):
                    raise UserError(
                        "Ray ended a worker, as the memory of its machine was full. "
                        f"{memory_advice(order.config)} It was not started again, as it would likely end alike; if "
                        "other programs filled the memory, run the same command again: it goes on from the last "
                        "checkpoint, if there is one."
                    ) from error
                failures += 1
                if isinstance(error, ray.train.ControllerError) or 0 <= allowed < failures:
                    raise UserError(_explain(error, failures - 1)) from error
                log.warning("finetune: %s; starting again (%d of %d)", _losses(error), failures, allowed)
            finally:
                delete_folder(filesystem, f"{noun.folder}/ray")
                _delete_file(filesystem, fault)
    assert outcome is not None, "rank 0 returned its outcome"
    return dict(outcome)


def _trainer(run: Run, order: Order, gpus: float) -> Any:
    """One start of the workers. Ray's own restarts are left to preempted nodes and to workers that come late."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config, noun = order.config, order.noun
    return TorchTrainer(
        lambda settings: train_on_worker(settings["order"]),
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
            label_selector=config.nodes or None,
        ),
        run_config=RunConfig(
            name=f"raycurate-{run.id}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{noun.folder}/ray",
            storage_filesystem=noun.filesystem,
            # Ray's default is to wait for workers that never come for ever; a start that failed counts like a restart.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=config.max_failures),
        ),
    )


def _ended_for_memory(error: Exception) -> bool:
    """Whether Ray's memory monitor ended a worker before the system had to."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = [getattr(failure, "health_check_failure", failure) for failure in failures]  # as Ray Train wraps it
    return any(isinstance(cause, ray.exceptions.OutOfMemoryError) for cause in causes)


def _losses(error: Exception) -> str:
    """The workers' own errors, one line each."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    lines = {rank: (str(cause).strip() or type(cause).__name__).splitlines()[-1] for rank, cause in failures.items()}
    return "; ".join(f"worker {rank}: {line}" for rank, line in sorted(lines.items())[:4])


def _explain(error: Exception, restarts: int) -> str:
    """Why there is no further start, and what can be done."""
    return (
        f"the training failed after {restarts} restarts. {_losses(error)}. Run the same command to go on from the "
        "last checkpoint; RAYCURATE_RAY_LOGS=1 shows the workers' logs, which lie in Ray's session folder "
        "(/tmp/ray/session_latest/logs on each machine)."
    )


def _delete_file(filesystem: pafs.FileSystem, path: str) -> None:
    if exists(filesystem, path):
        filesystem.delete_file(path)


@contextlib.contextmanager
def _quiet_train(start_seconds: float) -> Iterator[None]:
    """Ray Train's log lines kept from the terminal, and its patience with slow machines."""
    with quiet_library("ray.train", {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_seconds)}):
        yield


@contextlib.contextmanager
def _watch(noun: Noun) -> Iterator[None]:
    """Show the steps that rank 0 notes down."""
    stop = threading.Event()

    def poll() -> None:
        progress: Progress | None = None
        last: dict[str, float] | None = None
        while not stop.wait(POLL_SECONDS):
            note = noun.read_json(STEP_FILE)
            if note is None:
                continue
            if progress is None:
                progress = Progress("finetune", note["steps"], "steps", noun=noun, done=note["first"])
                progress.__enter__()
            if last is not None and note["time"] > last["time"] and note["tokens_seen"] > last["tokens_seen"]:
                rate = (note["tokens_seen"] - last["tokens_seen"]) / (note["time"] - last["time"])
                progress.measure(tokens_per_second=rate)
            progress.measure(loss=note["loss"])
            progress.set(note["step"], f"loss {note['loss']:.4f}")
            last = note
        if progress is not None:
            progress.__exit__(None, None, None)

    if noun.read_json(STEP_FILE) is not None:
        noun.filesystem.delete_file(f"{noun.folder}/{STEP_FILE}")
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _finish(noun: Noun, rows: TrainingRows, outcome: dict[str, Any]) -> Manifest:
    """Publish, with the counts of the rows that were trained on."""
    manifest = noun.finish(metrics={**outcome, "cut_rows": rows.cut_rows})
    manifest = dataclasses.replace(manifest, rows_in=rows.rows_in, rows_out=rows.rows_out, quarantined=rows.quarantined)
    noun.write_json("manifest.json", asdict(manifest))
    return manifest
