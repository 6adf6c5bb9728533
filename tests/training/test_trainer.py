"""The trainer with real processes: one step is the same however its rows are spread, and plain with equal weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run, write_tokens

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


def train(tmp_path: Path, model: str, tokens, *, ranks: int = 1, name: str, weights=WEIGHTS, plain=False, **config):
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
        "tokens": [tokens.run_uri, tokens.noun, tokens.label],
        "tasks": TASKS,
        "weights": weights,
        "output": str(output),
        "scratch": str(tmp_path / "scratch"),
    }
    (output / "order.json").write_text(json.dumps(order))
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.worker", str(output / "order.json")],
            env={**environment, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(ranks)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(ranks)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors[0][-3000:]
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

    Rank 1 has two rows, so a task is missing there, and its second micro-batch is fully masked.
    """
    outcome, change = train(tmp_path, model, tokens, ranks=2, name="spread", micro_batch=2, deepspeed=deepspeed)
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
