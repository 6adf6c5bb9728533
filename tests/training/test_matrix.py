"""Every way to spread a training, of every kind of trained weights, in both precisions, on one rank and on two."""

from __future__ import annotations

import itertools
import json
import os
import socket
from pathlib import Path

import pytest
import torch

from raycurate.training.network import merge_adapter
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run, write_tokens
from tests.training.matrix_worker import train_all
from tests.training.worker import train_apart

COMBINATIONS = {
    f"{deepspeed or 'ddp'}-{method}-{precision}": {"deepspeed": deepspeed, "method": method, "precision": precision}
    for deepspeed, method, precision in itertools.product(
        (None, "zero2", "zero3"), ("lora", "full", "projector"), ("bfloat16", "float32")
    )
}

PLANTED = ["ddp-projector-float32", "zero2-projector-float32", "zero3-projector-float32"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A LLaVA of two layers with random weights: each layer adds to the 78 trainings what it takes to wrap it."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava"), layers=2))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, model):
    """Eight rows of three tasks."""
    return write_tokens(write_run(tmp_path_factory.mktemp("run"), 8), model)


@pytest.fixture(scope="module", params=[1, 2])
def trained(request, tmp_path_factory, model, tokens) -> Path:
    """The folder with what each combination left, all trained by one group of processes."""
    folder = tmp_path_factory.mktemp(f"ranks-{request.param}")
    order = {
        "combinations": COMBINATIONS,
        "planted": PLANTED,
        "chunk_logits": 2000,  # a few tokens
        "config": {
            "model": model,
            "batch_rows": 4,
            "lora_rank": 2,
            "lora_alpha": 4,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "save_steps": 1,
            "trackers": [],
        },
        "tokens": [tokens.run_uri, tokens.noun, tokens.label],
        "tasks": TASKS,
        "output": str(folder),
        "scratch": str(folder / "scratch"),
    }
    (folder / "order.json").write_text(json.dumps(order))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    train_apart(folder / "order.json", request.param, environment, train_all)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_trains_saves_and_goes_on(trained, name):
    """One step, a checkpoint, one more step from it; the saved model is one that plain transformers loads."""
    from transformers import AutoModelForImageTextToText

    found = json.loads((trained / name / "found.json").read_text())
    assert "error" not in found, found["error"]
    first, second = found["trainings"]
    assert (first["steps"], first["resumed_from"]) == (1, None)
    assert (second["steps"], second["resumed_from"]) == (2, 1)
    assert 0 < second["loss"] < 100
    if "lora" in name:
        order = json.loads((trained / "order.json").read_text())
        merge_adapter(order["config"]["model"], trained / name / "final", trained / name / "merged")
    saved = AutoModelForImageTextToText.from_pretrained(trained / name / ("merged" if "lora" in name else "final"))
    assert all(torch.isfinite(weight).all() for weight in saved.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_code_in_a_checkpoint_is_refused_and_not_run(trained, name):
    """A pickle that would run a command ends the training, which names the checkpoint; the command has not run."""
    found = json.loads((trained / name / "found.json").read_text())
    assert "holds more than plain data" in found["refused"]
    assert "checkpoint-2" in found["refused"]
    assert not (trained / name / "checkpoints" / "canary").exists()
