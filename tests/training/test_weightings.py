"""Weights that change while a model trains: the loss they make, on any spread of rows, and through a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycurate.balancing import online
from raycurate.models.adapter import load_processor
from raycurate.training import loop
from raycurate.training.collate import POSITIONS, TASK_IDS, Collator
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenDataset, TokenSource
from raycurate.training.loop import LoopSettings, Outcome
from raycurate.training.network import load_network
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run, write_tokens
from tests.training.test_trainer import assert_same_step, train, weights_of_model

PLAIN = {
    "method": "full",
    "batch_rows": 4,
    "micro_batch": 2,
    "warmup_ratio": 0.0,
    "schedule": "constant",
    "group_by_length": False,
    "precision": "float32",
    "trackers": (),
    "threads": 1,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A tiny LLaVA with random weights."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, model):
    """Twelve rows of three tasks."""
    return write_tokens(write_run(tmp_path_factory.mktemp("run"), 12), model)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One process without a group."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def train_here(folder, model, tokens, report=None, **config) -> Outcome:
    """Train in this process."""
    settings = LoopSettings(
        config=FinetuneConfig(model=model, **{**PLAIN, **config}),
        sources=(TokenSource(tokens),),
        tasks=TASKS,
        task_weights=(1.0, 1.0, 1.0),
        output=str(folder),
        scratch=str(folder / "scratch"),
    )
    return loop.train(settings, report)


def test_the_first_step_of_tla_is_the_mean_of_the_tasks_mean_losses(tmp_path, model, tokens):
    """Naive float64 cross-entropies, row by row, of all rows in one step."""
    outcome = train_here(tmp_path, model, tokens, weighting="tla", batch_rows=12, max_steps=1)
    processor = load_processor(model)
    dataset = TokenDataset([TokenSource(tokens)], processor, TASKS, scratch=tmp_path)
    network = load_network(model, dtype=torch.float32).eval()
    losses: dict[int, list[float]] = {}
    for number in range(dataset.num_rows):
        batch = Collator(processor, dataset)([dataset[number]])
        labels_BT, tasks_B, _ = (batch.pop(name) for name in ("labels", TASK_IDS, POSITIONS))
        with torch.no_grad():
            logits_TV = network(**batch).logits[0].double()
        for place in range(1, labels_BT.shape[1]):
            label = int(labels_BT[0, place])
            if label != -100:
                log_p_V = torch.log_softmax(logits_TV[place - 1], dim=0)
                losses.setdefault(int(tasks_B[0]), []).append(-float(log_p_V[label]))
    counts = {task: len(own) for task, own in losses.items()}
    assert len(set(counts.values())) > 1, "tasks of one size would hide a wrong weight"
    expected = np.mean([np.mean(own) for own in losses.values()])
    assert outcome.history[0]["loss"] == pytest.approx(expected, rel=1e-6)
    plain = np.mean([loss for own in losses.values() for loss in own])
    assert outcome.history[0]["loss"] != pytest.approx(plain, rel=2e-5)
    for k, task in enumerate(TASKS):
        assert outcome.history[0][f"weight/{task}"] == pytest.approx(np.mean(list(counts.values())) / counts[k])


@pytest.mark.slow
def test_random_weights_are_the_same_for_any_number_of_ranks(tmp_path, model, tokens):
    """Two steps of two ranks move every weight as those of one do."""
    settings = {"weighting": "rlw", "max_steps": 2, "micro_batch": 4, "learning_rate": 1.0, "weights": (1.0, 1.0, 1.0)}
    one = train(tmp_path, model, tokens, ranks=1, name="one", **settings)
    two = train(tmp_path, model, tokens, ranks=2, name="two", **settings)
    for mine, theirs in zip(one[0]["history"], two[0]["history"], strict=True):
        for task in TASKS:
            assert mine[f"weight/{task}"] == pytest.approx(theirs[f"weight/{task}"], rel=1e-9)
            assert mine[f"weight/{task}"] != pytest.approx(1)
    assert_same_step(two[1], one[1])


class Stopped(Exception):
    """The training was interrupted."""


@pytest.mark.parametrize("weighting", ["dwa", "igb"])
def test_a_resumed_training_has_the_weights_of_an_undisturbed_one(tmp_path, model, tokens, monkeypatch, weighting):
    """Stopped after a checkpoint and started again: the same task weights in each step, the same model."""
    monkeypatch.setattr(online, "DWA_WINDOW", 1)
    monkeypatch.setattr(online, "IGB_BASE_START", 0)
    monkeypatch.setattr(online, "IGB_BASE_END", 2)
    settings = {"weighting": weighting, "max_steps": 6, "save_steps": 3, "learning_rate": 0.01}

    def stop(numbers, checkpoint):
        if checkpoint is not None:
            raise Stopped

    quiet = train_here(tmp_path / "quiet", model, tokens, **settings)
    with pytest.raises(Stopped):
        train_here(tmp_path / "stopped", model, tokens, stop, **settings)
    resumed = train_here(tmp_path / "stopped", model, tokens, **settings)
    assert resumed.resumed_from == 3
    weights = [
        [{name: value for name, value in step.items() if name.startswith("weight/")} for step in outcome.history[3:]]
        for outcome in (quiet, resumed)
    ]
    assert weights[0] == weights[1]
    assert any(abs(value - 1) > 1e-3 for step in weights[0] for value in step.values())
    assert resumed.tasks == quiet.tasks
    models = [weights_of_model(tmp_path / name / "final") for name in ("quiet", "stopped")]
    for name, weight in models[0].items():
        np.testing.assert_array_equal(models[1][name], weight, err_msg=name)
