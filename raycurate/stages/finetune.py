"""``finetune``: train the target model on the kept rows with Ray Train, write the ``models`` noun.

    tokens --TorchTrainer: one VitwTrainer per worker, DDP or DeepSpeed--> models/<label>/{final, merged, history.json}

Ray Train places the workers, connects them and starts them again after a failure; the training itself is
`training/loop.py`, which knows no Ray. A restarted group goes on from the last complete checkpoint, and so does a run
that is started again: the checkpoints lie in the noun's folder. Every row is counted once, however often that happened.
Checkpoints do not pass through Ray's storage, which would copy them once more on every rank.

The run directory must be reachable under the same URI from every machine. On a shared folder checkpoints are written
in place; on an object store they are written locally and copied (`training/mirror.py`).

Cost: the trainer's; starting a worker takes about as long as importing torch and transformers. Memory per worker: the
model's states, one batch, 16 bytes per row, and the image cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow.fs as pafs
import ray

from raycurate.errors import UserError
from raycurate.filesystem import delete_folder, resolve
from raycurate.progress import Progress
from raycurate.ray_session import cluster_gpus, one_writer, quiet_library
from raycurate.stages.shards import describe, map_tasks, skip_if_done
from raycurate.stages.tokenize import tokenize
from raycurate.store import Manifest, Noun, Run
from raycurate.training.config import FinetuneConfig
from raycurate.training.weights import weights_of

STAGE_VERSION = 1
POLL_SECONDS = 1.0
STEP_FILE = "step.json"
FAULT_FILE = "fault.json"


@one_writer
def finetune(run: Run, config: FinetuneConfig) -> Manifest:
    """Write the ``models`` noun: ``final`` (model or adapter, with processor), ``merged``, ``history.json``, logs.

    Raises:
        UserError: a wrong setting, weights that do not fit the tasks, or a training that failed for good.
    """
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else float(cluster_gpus() > 0)
    _check(config, gpus)
    fingerprint = next(map_tasks(_model_fingerprint, [(config,)], num_cpus=0.5))
    sample_tasks = run.noun("samples", config.samples).require("ingest").metrics["tasks"]
    if config.weights is not None:
        _check_names(config.weights, sample_tasks)
    tokens = tokenize(run, config, fingerprint)
    tokens_manifest = tokens.require("finetune")
    tasks = tuple(sorted(tokens_manifest.metrics["tasks"]))
    weights = weights_of(tasks, config.weights, known=sample_tasks)
    inputs = {"tokens": tokens_manifest.fingerprint, "model": fingerprint}
    description = describe("finetune", STAGE_VERSION, config, inputs)
    noun = run.noun("models", config.label)
    if done := skip_if_done(noun, description):
        return done
    noun.begin(description)
    outcome = _fit(run, noun, tokens, config, tasks, tuple(weights.tolist()), gpus)
    noun.write_json("history.json", outcome.pop("history"))
    noun.write_json("tasks.json", outcome["tasks"])
    return _finish(noun, tokens_manifest, outcome)


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


def _check_names(weights: dict[str, float], sample_tasks: dict[str, int]) -> None:
    """Find a misspelt task before anything is tokenised."""
    weights_of([task for task in sample_tasks if task in weights], weights, known=sample_tasks)


def _model_fingerprint(config: FinetuneConfig) -> str:
    """Hash of the model's files; runs as a task, as it imports transformers."""
    from transformers import AutoConfig

    from raycurate.models.adapter import check_supported, resolve_model
    from raycurate.stages.model_facts import model_fingerprint

    source = resolve_model(config.model)
    try:
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model '{config.model}': {str(error).splitlines()[0]}") from None
    check_supported(config.model, model_config)
    return model_fingerprint(source, model_config)


def _fit(
    run: Run,
    noun: Noun,
    tokens: Noun,
    config: FinetuneConfig,
    tasks: tuple[str, ...],
    weights: tuple[float, ...],
    gpus: float,
) -> dict[str, Any]:
    """Run the workers to the end; the outcome of rank 0."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    filesystem, _ = resolve(run.uri)
    attempt = uuid.uuid4().hex[:8]
    order = {
        "config": config.model_dump(mode="json"),
        "tokens": tokens,
        "noun": noun,
        "tasks": tasks,
        "weights": weights,
        "images": config.images or _image_root(run, config),
        "on_gpu": gpus > 0,
        "folder": os.getcwd(),
    }
    trainer = TorchTrainer(
        _work,
        train_loop_config=order,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
            label_selector=config.nodes or None,
        ),
        run_config=RunConfig(
            name=f"raycurate-{run.id}-{attempt}",
            storage_path=f"{noun.folder}/ray",
            storage_filesystem=filesystem,
            # Ray's default is to wait for workers that never come for ever; a start that failed counts like a restart.
            failure_config=FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=config.max_failures
            ),
        ),
    )
    noun.write_json(FAULT_FILE, None)
    with _quiet_train(config.start_seconds), _watch(noun):
        try:
            outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise UserError(_explain(error, config)) from error
        finally:
            delete_folder(filesystem, f"{noun.folder}/ray")
    fault = noun.read_json(FAULT_FILE)
    if fault:
        raise UserError(fault)
    assert outcome is not None, "rank 0 returned its outcome"
    return dict(outcome)


def _image_root(run: Run, config: FinetuneConfig) -> str | None:
    root = run.noun("samples", config.samples).require("ingest").description["config"]["images"]
    return None if root is None else str(root)


def _explain(error: Exception, config: FinetuneConfig) -> str:
    """The workers' own errors, one line each."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    lines = {rank: (str(cause).strip() or type(cause).__name__).splitlines()[-1] for rank, cause in failures.items()}
    told = "; ".join(f"worker {rank}: {line}" for rank, line in sorted(lines.items())[:4])
    return (
        f"the training failed after {config.max_failures} restarts. {told}. Run the same command to go on from the "
        "last checkpoint; RAYCURATE_RAY_LOGS=1 shows the workers' logs."
    )


@contextlib.contextmanager
def _quiet_train(start_seconds: float) -> Iterator[None]:
    """Ray Train's log lines kept from the terminal, its patience with slow machines, and its Ctrl-C handler undone."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        with quiet_library("ray.train", {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_seconds)}):
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


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


def _finish(noun: Noun, tokens: Manifest, outcome: dict[str, Any]) -> Manifest:
    """Publish, with the counts of the rows that were trained on."""
    manifest = noun.finish(metrics={**outcome, "cut_rows": tokens.metrics["cut_rows"]})
    manifest = dataclasses.replace(
        manifest, rows_in=tokens.rows_in, rows_out=tokens.rows_out, quarantined=tokens.quarantined
    )
    noun.write_json("manifest.json", asdict(manifest))
    return manifest


# what runs on the workers


def _work(order: dict[str, Any]) -> dict[str, Any] | None:
    """One worker's training; rank 0's return value is the outcome. A `UserError` ends it without a restart."""
    if not order["on_gpu"]:
        os.environ["DS_ACCELERATOR"] = "cpu"  # before anything imports deepspeed
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if os.path.isdir(order["folder"]):  # Ray Train moves its workers elsewhere; relative paths are the driver's
        os.chdir(order["folder"])
    rank = ray.train.get_context().get_world_rank()
    try:
        outcome = _Worker(order).run()
    except UserError as error:
        if rank == 0:
            order["noun"].write_json(FAULT_FILE, str(error))
        return None
    return asdict(outcome)


class _Worker:
    """A training process under Ray Train."""

    def __init__(self, order: dict[str, Any]) -> None:
        from raycurate.training.mirror import Mirror

        self.config = FinetuneConfig(**order["config"])
        self.noun: Noun = order["noun"]
        self.context = ray.train.get_context()
        self.first: float | None = None
        self.last_note = 0.0
        scratch = self.config.scratch or f"{tempfile.gettempdir()}/raycurate-{os.getuid()}"
        filesystem, here = self.noun.filesystem, self.noun.folder
        self.mirror = None
        if not isinstance(filesystem, pafs.LocalFileSystem):
            from pathlib import Path

            here = f"{scratch}/models-{self.noun.label}-{self.context.get_experiment_name()}"
            self.mirror = Mirror(Path(here), filesystem, self.noun.folder)
        self.order, self.scratch, self.output = order, scratch, here

    def run(self) -> Any:
        from raycurate.training.loop import LoopSettings, train

        if self.mirror is not None and self.context.get_local_rank() == 0:
            self.mirror.fetch_checkpoint()
        if self.mirror is not None:
            self._wait_for_all()
        outcome = train(
            LoopSettings(
                config=self.config,
                tokens=self.order["tokens"],
                tasks=self.order["tasks"],
                task_weights=self.order["weights"],
                output=self.output,
                scratch=self.scratch,
                image_root=self.order["images"],
                on_gpu=self.order["on_gpu"],
                name=f"{self.noun.noun}/{self.noun.label}",
            ),
            self._report,
        )
        if self.mirror is not None and self.context.get_world_rank() == 0:
            self.mirror.send("final", "merged", "logs")
        return outcome

    def _report(self, numbers: dict[str, float], checkpoint: str | None) -> None:
        """Leave a note for the driver; with a checkpoint also tell Ray Train (and so Tune), and mirror it if remote.

        Ray Train hears of checkpoints only: its `report` waits for the controller's next poll, which takes seconds.
        """
        if checkpoint is not None and self.mirror is not None:
            name = checkpoint.rsplit("/", 1)[-1]
            if self.context.get_local_rank() == 0:
                first = self.context.get_world_rank() == 0
                keep = self.config.keep_checkpoints
                self.mirror.send_checkpoint(name, wait_for_all=self._wait_for_all, first=first, keep=keep)
            else:
                self._wait_for_all()
        if checkpoint is not None:
            ray.train.report({**numbers, "checkpoint_path": checkpoint})
        if self.context.get_world_rank() == 0:
            self._note(numbers)

    def _note(self, numbers: dict[str, float]) -> None:
        if self.first is None:
            self.first = numbers["step"] - 1
        now = time.monotonic()
        if "loss" in numbers and now - self.last_note >= POLL_SECONDS:
            self.last_note = now
            note: dict[str, float] = {
                "first": int(self.first),
                "step": int(numbers["step"]),
                "steps": int(numbers["steps"]),
            }
            note |= {"loss": numbers["loss"], "tokens_seen": numbers["tokens_seen"], "time": time.time()}
            self.noun.write_json(STEP_FILE, {**note, "pid": os.getpid()})

    @staticmethod
    def _wait_for_all() -> None:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()
