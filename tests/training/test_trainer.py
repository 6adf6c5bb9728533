"""The trainer with real processes: one step is the same however its rows are spread, and plain with equal weights."""

from __future__ import annotations

import itertools
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from raycurate.errors import UserError
from raycurate.models.adapter import load_processor
from raycurate.training.collate import Collator
from raycurate.training.data import TrainingRow
from raycurate.training.network import add_lora, load_network, projector_paths
from raycurate.training.trainer import VitwTrainer
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run, write_tokens
from tests.training.worker import train_apart

WEIGHTS = (0.5, 1.0, 3.0)
SGD = {"optim": "sgd", "max_grad_norm": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A tiny LLaVA with random weights."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, model):
    """Six rows of three tasks: a step of eight ends with two blank rows."""
    return write_tokens(write_run(tmp_path_factory.mktemp("run"), 6), model)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def train(
    tmp_path: Path,
    model: str,
    tokens,
    *,
    ranks: int = 1,
    name: str,
    weights=WEIGHTS,
    tasks=TASKS,
    features=None,
    plain=False,
    chunk_logits=None,
    **config,
):
    """Run the worker in `ranks` processes; the outcome and the change of every weight."""
    output = tmp_path / name
    output.mkdir()
    order = {
        "config": {
            "model": model,
            "method": "full",
            "batch_rows": 8,
            "learning_rate": 100.0,
            "warmup_ratio": 0.0,
            "schedule": "constant",
            "max_steps": 1,
            "group_by_length": False,
            "precision": "float32",
            "trackers": [],
            **config,
        },
        "arguments": SGD,
        "plain": plain,
        "chunk_logits": chunk_logits,
        "tokens": [tokens.run_uri, tokens.noun, tokens.label],
        "features": features and [features.run_uri, features.noun, features.label],
        "tasks": tasks,
        "weights": weights,
        "output": str(output),
        "scratch": str(tmp_path / "scratch"),
    }
    (output / "order.json").write_text(json.dumps(order))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    train_apart(output / "order.json", ranks, {**os.environ, **place})
    outcome = json.loads((output / "outcome.json").read_text())
    before, after = weights_of_model(model), weights_of_model(output / "final")
    return outcome, {key: after[key] - before[key] for key in before}


def weights_of_model(folder) -> dict[str, np.ndarray]:
    """The weights of a saved model as plain transformers loads it."""
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(folder)
    return {name: weight.double().numpy() for name, weight in network.state_dict().items()}


def assert_same_step(found, expected, rtol=1e-5):
    """Every weight moved alike, relative to the largest move of its tensor."""
    moved = 0
    for key, change in expected.items():
        scale = np.abs(change).max()
        if scale > 1e-3:
            moved += 1
            assert np.abs(found[key] - change).max() <= rtol * scale, key
        else:
            np.testing.assert_allclose(found[key], change, atol=1e-6)
    assert moved > 10


@pytest.fixture(scope="module")
def whole_step(tmp_path_factory, model, tokens):
    """One step of one process on all rows at once."""
    return train(tmp_path_factory.mktemp("whole"), model, tokens, name="whole", micro_batch=8)


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, "zero2", "zero3"])
def test_gradients_do_not_depend_on_the_spread_of_rows(tmp_path, model, tokens, whole_step, deepspeed):
    """Two ranks with two micro-batches of two rows each make the step of one rank with one batch of eight.

    Rank 1 has two rows, so a task is missing there, and its second micro-batch is fully masked. The loss is taken a few
    tokens at a time.
    """
    settings = {"ranks": 2, "micro_batch": 2, "deepspeed": deepspeed, "chunk_logits": 2000}
    outcome, change = train(tmp_path, model, tokens, name="spread", **settings)
    assert outcome["parallelism"] == ("DEEPSPEED" if deepspeed else "MULTI_CPU")
    assert_same_step(change, whole_step[1])
    assert outcome["rows_seen"] == whole_step[0]["rows_seen"] == 6
    assert outcome["loss"] == pytest.approx(whole_step[0]["loss"], rel=1e-6)
    for task in TASKS:
        assert outcome["tasks"][task] == pytest.approx(whole_step[0]["tasks"][task], rel=1e-6)
    logged = outcome["history"][0]
    assert sum(logged[f"share/{task}"] for task in TASKS) == pytest.approx(1.0)


@pytest.mark.slow
def test_equal_weights_are_plain_training(tmp_path, model, tokens):
    """With all weights one, three steps of AdamW-free training equal transformers' own Trainer."""
    settings = {"weights": (1.0, 1.0, 1.0), "max_steps": 3, "learning_rate": 1.0, "micro_batch": 4}
    ours = train(tmp_path, model, tokens, name="ours", **settings)
    plain = train(tmp_path, model, tokens, name="plain", plain=True, **settings)
    assert_same_step(ours[1], plain[1], rtol=1e-5)
    for mine, theirs in zip(ours[0]["history"], plain[0]["history"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-6)


class MaskedRows(torch.utils.data.Dataset):
    """Four rows, the second and third of them without labels, in order."""

    has_images = True
    num_rows = 4

    def __init__(self, model: str) -> None:
        from jobs.bench_trainer import MadeUpRows

        self.rows = MadeUpRows(load_processor(model), 4, side=28, answer_words=3, seed=0).rows
        for number in (1, 2):
            row = self.rows[number]
            self.rows[number] = TrainingRow(row.ids_T, np.full_like(row.labels_T, -100), row.task, row.images)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.rows[index]


def test_a_step_without_tokens_is_skipped(model, tmp_path, monkeypatch):
    """A step whose rows are all masked moves no weight (nor moment, nor decay); the others do."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    network = load_network(model, dtype=torch.float32)
    rows = MaskedRows(model)
    head = network.get_output_embeddings().weight
    seen: list[torch.Tensor] = [head.detach().clone()]

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append(head.detach().clone())

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        learning_rate=1e-2,
        weight_decay=0.1,
        lr_scheduler_type="constant",
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = VitwTrainer(
        model=network,
        args=arguments,
        train_dataset=rows,
        data_collator=Collator(load_processor(model), rows),
        callbacks=[Watch()],
        tasks=TASKS,
        task_weights=WEIGHTS,
    )
    trainer.train()
    moved = [not torch.equal(before, after) for before, after in itertools.pairwise(seen)]
    assert moved == [True, False, False, True]
    assert torch.isfinite(seen[-1]).all()
    assert trainer.totals_5K[2].sum() == 2


def _train_to_the_end(trainer: VitwTrainer) -> None:
    """As the training loop does."""
    trainer.train()
    trainer.finish_task_sums()


@pytest.mark.parametrize(("logging_steps", "save_strategy", "step"), [(1, "no", 2), (100, "steps", 2), (100, "no", 12)])
def test_a_loss_that_is_no_number_ends_the_training(model, tmp_path, monkeypatch, logging_steps, save_strategy, step):
    """At the next log, before a checkpoint is written, or at the end: spoilt weights are never what comes out."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    network = load_network(model, dtype=torch.float32)
    with torch.no_grad():
        network.get_output_embeddings().weight[0, 0] = float("inf")
    rows = MaskedRows(model)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, use_cpu=True, logging_steps=logging_steps,
        save_strategy=save_strategy, save_steps=1, report_to="none", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = VitwTrainer(
        model=network, args=arguments, train_dataset=rows, data_collator=Collator(load_processor(model), rows),
        tasks=TASKS, task_weights=WEIGHTS,
    )  # fmt: skip
    with pytest.raises(UserError, match=rf"not a number any more at step {step}, .* Lower learning_rate \(5e-05\)"):
        _train_to_the_end(trainer)
    assert not (tmp_path / "checkpoint-2").exists()


def test_projector_has_its_own_learning_rate(model, tmp_path):
    """The projector's parameters, and no others, are in groups with the projector's rate."""
    network = load_network(model, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, use_cpu=True, report_to="none", remove_unused_columns=False
    )
    paths = projector_paths(network)
    trainer = VitwTrainer(
        model=add_lora(network, rank=2, alpha=4, dropout=0.0, saved_modules=paths),
        args=arguments,
        tasks=TASKS,
        task_weights=WEIGHTS,
        projector_names=paths,
        projector_learning_rate=1e-5,
    )
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-5 if "multi_modal_projector" in name else 1e-3), name


@pytest.mark.slow
def test_trackers_get_the_losses_that_the_run_keeps(tmp_path, model, tokens, monkeypatch):
    """TensorBoard's files in the run and MLflow's store have the loss of every step, once for two processes."""
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "of another training"))
    steps = {"max_steps": 3, "micro_batch": 4, "logging_steps": 1, "learning_rate": 0.01}
    train(tmp_path, model, tokens, name="tracked", ranks=2, trackers=["tensorboard", "mlflow"], **steps)
    events = EventAccumulator(str(tmp_path / "tracked" / "logs"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert list(losses) == [1, 2, 3]
    client = MlflowClient(store)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    tracked = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert tracked == pytest.approx(losses)
    assert len(set(losses.values())) == 3
    assert not (tmp_path / "of another training").exists()
