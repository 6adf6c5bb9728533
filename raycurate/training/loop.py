"""One training process from settings to a saved model. No Ray: a stage, a test or torchrun starts it on each rank.

The process group and the environment (RANK, WORLD_SIZE, ...) are there already. Every rank opens the tokens, builds
the network (after the training arguments: a ZeRO-3 config must be known when the weights are loaded), goes on from the
last complete checkpoint if there is one, trains, and saves together with the others.

A checkpoint is complete once `COMPLETE` names it: that file is written by rank 0 after a barrier, so a process killed
while it saves leaves the checkpoint before it as the one to go on from. Checkpoints are transformers' own folders:
model or adapter, optimizer, scheduler, random states, and the sums by task.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback

from raycurate.balancing.online import build_weighting
from raycurate.encoding.inputs import types_name
from raycurate.errors import UserError
from raycurate.models.adapter import load_processor
from raycurate.run.store import Noun
from raycurate.training.checkpoints import COMPLETE, complete_checkpoint, plain_data_only
from raycurate.training.collate import Collator
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenDataset, TokenSource
from raycurate.training.deepspeed import deepspeed_config, prepare_deepspeed
from raycurate.training.held_out import held_out_losses
from raycurate.training.network import (
    add_lora,
    count_parameters,
    freeze,
    load_network,
    projector_paths,
    save_processor,
)
from raycurate.training.order import OrderSource
from raycurate.training.score_net import ScoredCollator, ScoredDataset, ScoreNetTrainer
from raycurate.training.trainer import VitwTrainer

Report = Callable[[dict[str, float], str | None], None]

MOST_LOADERS = 4


@dataclass(frozen=True)
class LoopSettings:
    """What a training process is told.

    Attributes:
        config: the stage's settings.
        sources: the rows to train on.
        tasks: task names in the order of their numbers.
        task_weights: lambda per task.
        output: local folder for checkpoints, logs and the final model; shared where there are several machines.
        scratch: local folder for memory-mapped tokens.
        held_out: rows whose loss is taken at the end; none: no such pass.
        score_features: what a score-net that is trained as well reads.
        order: what the order of the rows is made from; None: they are shuffled.
        on_gpu: whether each process has a GPU.
        name: of the run, for the trackers.
    """

    config: FinetuneConfig
    sources: tuple[TokenSource, ...]
    tasks: tuple[str, ...]
    task_weights: tuple[float, ...]
    output: str
    scratch: str
    held_out: tuple[TokenSource, ...] = ()
    score_features: Noun | None = None
    order: OrderSource | None = None
    on_gpu: bool = False
    name: str = "raycurate"


@dataclass(frozen=True)
class Outcome:
    """What a training came to; the same on every rank."""

    steps: int
    rows_seen: int
    tokens_seen: int
    loss: float
    seconds: float
    parallelism: str
    trained_parameters: int
    parameters: int
    resumed_from: int | None
    history: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)


def train(settings: LoopSettings, report: Report | None = None) -> Outcome:
    """Train on this rank; returns when the final model is saved in `output/final`.

    Args:
        settings: the same on every rank.
        report: called on every rank with the newest logged numbers and, after a save, the checkpoint's folder.
    """
    config = settings.config
    started = time.monotonic()
    if not settings.on_gpu:
        torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.workers))
    if config.deepspeed is not None:
        prepare_deepspeed(on_gpu=settings.on_gpu)
    arguments = training_arguments(settings)
    set_seed(config.seed)
    processor = load_processor(config.model, trust_remote_code=config.trust_remote_code)
    network, projector = build_network(config, arguments)
    rate, projector_rate = config.rates
    trainer = _trainer(
        settings,
        processor,
        model=network,
        args=arguments,
        callbacks=_callbacks(settings, report),
        tasks=settings.tasks,
        task_weights=settings.task_weights,
        weighting=None if config.weighting is None else build_weighting(config.weighting, settings.tasks, config.seed),
        group_by_length=config.group_by_length,
        order_seed=config.seed,
        order=settings.order,
        projector_names=projector,
        projector_learning_rate=None if projector_rate == rate else projector_rate,
    )
    checkpoint = complete_checkpoint(settings.output)
    if checkpoint is not None:
        trainer.load_task_sums(checkpoint)
    with plain_data_only(checkpoint, deepspeed=config.deepspeed is not None):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.finish_task_sums()
    _save_final(settings, trainer, processor)
    held_out = {}
    if settings.held_out:
        held_out = held_out_losses(trainer, _open(settings, settings.held_out, processor), processor)
    trained, parameters = count_parameters(network)
    tokens_K, _, rows_K, *_ = trainer.totals_5K
    return Outcome(
        steps=trainer.state.global_step,
        rows_seen=int(rows_K.sum()),
        tokens_seen=int(tokens_K.sum()),
        loss=trainer.mean_loss(),
        seconds=time.monotonic() - started,
        parallelism=str(trainer.accelerator.distributed_type.value),
        trained_parameters=trained,
        parameters=parameters,
        resumed_from=None if checkpoint is None else int(checkpoint.rsplit("-", 1)[1]),
        history=[entry for entry in trainer.state.log_history if "loss" in entry],
        tasks=trainer.task_summary(),
        held_out=held_out,
    )


def _callbacks(settings: LoopSettings, report: Report | None) -> list[TrainerCallback]:
    own: list[TrainerCallback] = [_Reporter(report, Path(settings.output))]
    return [*own, _TensorBoard(settings.output)] if "tensorboard" in settings.config.trackers else own


def _trainer(settings: LoopSettings, processor: Any, **shared: Any) -> VitwTrainer:
    """The trainer with its rows; where there are score features, one whose score-net learns with the model."""
    name = types_name(shared["model"])
    if settings.score_features is None:
        rows = _open(settings, settings.sources, processor)
        return VitwTrainer(train_dataset=rows, data_collator=Collator(processor, rows, name), **shared)
    scored = ScoredDataset(settings.score_features, settings.sources, processor, settings.tasks, **_reading(settings))
    return ScoreNetTrainer(
        train_dataset=scored,
        data_collator=ScoredCollator(processor, scored, name, scored.dimension),
        dimension=scored.dimension,
        net_learning_rate=settings.config.score_net_learning_rate or settings.config.rates[0],
        **shared,
    )


def _open(settings: LoopSettings, sources: Sequence[TokenSource], processor: Any) -> TokenDataset:
    return TokenDataset(sources, processor, settings.tasks, **_reading(settings))


def _reading(settings: LoopSettings) -> dict[str, Any]:
    return {"scratch": settings.scratch, "image_cache_mb": settings.config.image_cache_mb}


def loaders_beside(gpus: int, cpus: int) -> int:
    """How many processes decode images for each training process of a machine; a CPU of each is its own."""
    return max(0, min(MOST_LOADERS, cpus // gpus - 1)) if gpus else 0


def training_arguments(settings: LoopSettings) -> TrainingArguments:
    """The settings as transformers takes them."""
    config = settings.config
    bf16 = config.precision == "bfloat16" or (config.precision == "auto" and settings.on_gpu)
    checkpointing = settings.on_gpu if config.gradient_checkpointing is None else config.gradient_checkpointing
    loaders = config.loader_workers
    if loaders is None:
        loaders = loaders_beside(torch.cuda.device_count() if settings.on_gpu else 0, len(os.sched_getaffinity(0)))
    if "mlflow" in config.trackers:
        _require_mlflow()
    return TrainingArguments(
        output_dir=f"{settings.output}/checkpoints",
        run_name=settings.name,
        per_device_train_batch_size=config.rows_per_forward,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.rates[0],
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        bf16=bf16,
        tf32=True if settings.on_gpu else None,
        use_cpu=not settings.on_gpu,
        accelerator_config={"use_configured_state": config.deepspeed is not None and not settings.on_gpu},
        # A process by itself has no group, and must not be taken for one of several.
        ddp_backend=("nccl" if settings.on_gpu else "gloo") if torch.distributed.is_initialized() else None,
        ddp_find_unused_parameters=config.train_vision,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        deepspeed=None if config.deepspeed is None else deepspeed_config(config.deepspeed, bf16=bf16),
        logging_steps=config.logging_steps,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=config.save_steps,
        # One more: an old checkpoint goes when the next is written, which is before that one counts.
        save_total_limit=config.keep_checkpoints + 1,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=loaders,
        dataloader_persistent_workers=loaders > 0,
        dataloader_pin_memory=settings.on_gpu,
        remove_unused_columns=False,
        average_tokens_across_devices=True,
        report_to=[name for name in config.trackers if name != "tensorboard"] or "none",
        disable_tqdm=True,
        log_level="error",
    )


def _require_mlflow() -> None:
    import importlib.util

    if importlib.util.find_spec("mlflow") is None:
        raise UserError("the tracker 'mlflow' needs a package that is missing: pip install 'raycurate[mlflow]'")


def build_network(config: FinetuneConfig, arguments: TrainingArguments) -> tuple[Any, list[str]]:
    """The network with its trained parameters chosen, and the projector's paths.

    Trained parameters are float32 under plain DDP (bfloat16 is then autocast); DeepSpeed keeps float32 copies itself.
    """
    sixteen_bit = arguments.bf16 and (config.deepspeed is not None or config.method != "full")
    dtype = torch.bfloat16 if sixteen_bit else torch.float32
    network = load_network(config.model, dtype=dtype, trust_remote_code=config.trust_remote_code)
    projector = projector_paths(network, config.projector)
    if config.method != "lora":
        freeze(
            network,
            projector=projector,
            train_decoder=config.method == "full",
            train_projector=config.train_projector,
            train_vision=config.train_vision,
        )
    else:
        if arguments.gradient_checkpointing:
            network.enable_input_require_grads()
        network = add_lora(
            network,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            saved_modules=projector if config.train_projector else (),
            float32=config.deepspeed is None,
        )
    if config.deepspeed is None:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return network, projector


class _TensorBoard(TensorBoardCallback):
    """Writes to the training's own folder; transformers asks the environment, which is all the process's trainings'."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.logging_dir = f"{output}/logs"


class _Reporter(TrainerCallback):
    """Commits checkpoints and hands numbers on."""

    def __init__(self, report: Report | None, output: Path) -> None:
        self._report, self._output = report, output
        self._latest: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        self._latest = {**numbers, "step": float(state.global_step), "steps": float(state.max_steps)}
        if self._report:
            self._report(self._latest, None)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        name = f"checkpoint-{state.global_step}"
        folder = Path(args.output_dir)
        if args.process_index == 0:
            temporary = folder / f".{COMPLETE}"
            temporary.write_text(json.dumps({"checkpoint": name}), encoding="utf-8")
            os.replace(temporary, folder / COMPLETE)
        if self._report:
            self._report({**self._latest, "step": float(state.global_step)}, str(folder / name))


def _save_final(settings: LoopSettings, trainer: VitwTrainer, processor: Any) -> None:
    """`final`: the model or adapter with the processor, made aside and renamed."""
    config, output = settings.config, Path(settings.output)
    partial = output / ".final"
    trainer.save_model(str(partial))
    if trainer.args.process_index == 0:
        save_processor(config.model, processor, partial)
        shutil.rmtree(output / "final", ignore_errors=True)
        os.replace(partial, output / "final")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
