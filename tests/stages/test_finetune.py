"""`finetune` on a cluster: what it writes, what it skips, and that a killed worker changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import ray.train
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from raycurate.errors import UserError
from raycurate.models.source import resolve_model
from raycurate.stages import finetune as stage
from raycurate.stages.finetune import _ended_for_memory, _tell_wait, finetune
from raycurate.training.config import FinetuneConfig
from tests.drivers import output_of
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A tiny LLaVA with random weights."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava")))


def settings(model: str, **changes) -> FinetuneConfig:
    values = {
        "model": model,
        "batch_rows": 4,
        "lora_rank": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "cpus_per_worker": 0.5,
        "threads": 1,
        "trackers": (),
    }
    return FinetuneConfig(**{**values, **changes})


def generate(folder: Path, adapter: Path | None = None) -> list[str]:
    """Greedy answers of a saved model to a few questions, by plain transformers (and peft for an adapter)."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from raycurate.samples.images import load_image
    from tests.training.made_runs import made_sample

    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, adapter)
    processor = AutoProcessor.from_pretrained(folder)
    answers = []
    for number in (0, 1, 3):
        sample = made_sample(number)
        image = load_image(sample.images[0].data)
        inputs = processor(text=f"USER: <image>what {number}? ASSISTANT:", images=[image], return_tensors="pt")
        ids = network.eval().generate(**inputs, max_new_tokens=12, do_sample=False)
        answers.append(processor.tokenizer.decode(ids[0]))
    return answers


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    """The command line's LoRA finetune on half of 48 rows over two ZeRO-3 workers, merged; the run's path relative."""
    folder = tmp_path_factory.mktemp("finetune")
    run = write_run(Path(os.path.relpath(folder / "run")), 48, keep_every=2)
    weights = dict.fromkeys(TASKS, 1.0) | {"text": 2.0}
    (folder / "weights.json").write_text(json.dumps(weights))
    words = "--model tiny --workers 2 --deepspeed zero3 --lora --merge --set precision=bfloat16"
    words += f" --weights {folder}/weights.json --epochs 3 --batch-rows 8 --learning-rate 0.01"
    words += " --set lora_rank=4 --set lora_alpha=8 --set logging_steps=1"
    words += " --set cpus_per_worker=0.5 --set threads=1 --set trackers=[]"
    output = output_of("finetune", os.path.relpath(folder / "run"), *words.split())
    assert f"{folder}/run/models/main/merged" in output
    spread = {"batch_rows": 8, "workers": 2, "deepspeed": "zero3", "precision": "bfloat16"}
    config = settings("tiny", weights=weights, merge=True, epochs=3, **spread)
    return run, config, run.noun("models").require("finetune")


@pytest.mark.slow
def test_finetune_counts_every_kept_row(trained):
    """Every kept row is seen once per epoch, and the noun says so, by task."""
    run, _, manifest = trained
    assert (manifest.rows_in, manifest.rows_out) == (24, 24)
    assert manifest.metrics["rows_seen"] == 72
    assert manifest.metrics["steps"] == 9
    assert {task: entry["rows"] for task, entry in manifest.metrics["tasks"].items()} == dict.fromkeys(TASKS, 24)
    assert sum(entry["share"] for entry in manifest.metrics["tasks"].values()) == pytest.approx(1.0)
    history = run.noun("models").read_json("history.json")
    assert [entry["step"] for entry in history] == list(range(1, 10))
    assert history[-1]["loss"] < history[0]["loss"]
    assert manifest.metrics["trained_parameters"] < manifest.metrics["parameters"]


@pytest.mark.slow
def test_finished_finetune_is_skipped(trained, monkeypatch):
    """The same settings give the same manifest without a training, other execution settings too."""
    run, config, manifest = trained
    monkeypatch.setattr(stage, "_fit", lambda *_: pytest.fail("trained again"))
    assert finetune(run, config.model_copy(update={"save_steps": 7})).created == manifest.created


@pytest.mark.slow
def test_merged_model_generates_as_its_adapter(trained):
    """Plain transformers loads the merged folder and answers as the base model with the adapter."""
    run, _, _ = trained
    folder = Path(run.noun("models").folder)
    base = Path(resolve_model("tiny"))
    assert generate(folder / "merged") == generate(base, folder / "final")
    assert generate(folder / "merged") != generate(base)


@pytest.mark.slow
def test_wrong_weights_fail_before_any_work(ray_cluster, tmp_path, model):
    """A misspelt task is an error with the nearest name; nothing is written."""
    run = write_run(tmp_path, 12)
    config = settings(model, selection=None, weights={"colour": 1.0, "cuont": 1.0, "text": 1.0})
    with pytest.raises(UserError, match=r"'cuont'. Did you mean 'count'"):
        finetune(run, config)
    assert not (tmp_path / "models").exists()


def test_workers_that_wait_for_processors_say_so(ray_cluster, caplog):
    """More processors than the cluster has are no silent wait."""
    config = FinetuneConfig(model="tiny", workers=64, start_seconds=7)
    _tell_wait(config, 0.0, in_process=False)
    assert "64 workers with 1 CPUs each need 64" in caplog.text
    assert "at most 7 s" in caplog.text
    caplog.clear()
    _tell_wait(config.model_copy(update={"workers": 1}), 0.0, in_process=False)
    assert not caplog.text


def test_a_worker_that_ray_ended_for_memory_is_known():
    """Memory that ran out is told with what to do; a worker that was lost is started again."""
    for cause, for_memory in (
        (ray.exceptions.OutOfMemoryError("the node is full"), True),
        (ray.exceptions.ActorDiedError(), False),
    ):
        for failure in (cause, WorkerHealthCheckFailedError("a worker does not answer", failure=cause)):
            assert _ended_for_memory(ray.train.WorkerGroupError("workers failed", {0: failure})) == for_memory


@pytest.mark.slow
def test_wrong_configuration_is_told_at_once(ray_cluster, tmp_path, model, caplog):
    """An error that would come again ends the training without a restart, names itself and where its traceback is."""
    (tmp_path / "wrong.json").write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "many"}}')
    run = write_run(tmp_path / "run", 12)
    config = settings(model, selection=None, deepspeed=str(tmp_path / "wrong.json"))
    with pytest.raises(UserError, match=r"reduce_bucket_size.*failed-worker-\d.txt") as caught:
        finetune(run, config)
    assert "starting again" not in caplog.text
    (log,) = (Path(name.rstrip(".")) for name in str(caught.value).split() if "failed-worker" in name)
    assert "Traceback" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_remote_run_leaves_no_model_on_this_machine(ray_cluster, s3, tmp_path, model, fails):
    """The folder that a training on an object store writes to first is gone, after an error too."""
    run = write_run(f"s3://bucket/finetune-{fails}", 8)
    config = settings(model, selection=None, merge=True, max_steps=1, save_steps=1, scratch=str(tmp_path))
    if fails:
        with pytest.raises(UserError, match="is no module"):
            finetune(run, config.model_copy(update={"projector": ("nowhere",)}), in_process=True)
    else:
        finetune(run, config, in_process=True)
        noun = run.noun("models")
        found = {info.base_name for info in noun.filesystem.get_file_info(pafs.FileSelector(noun.folder))}
        assert {"final", "merged"} <= found
    assert not [path for name in ("models-*", "rows-*", "**/tokens-*") for path in tmp_path.glob(name)]


def kill_when_saved(folder: Path, killed: list[int]) -> None:
    """Kill -9 the training process of rank 0 once a checkpoint is complete."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.02)
        try:
            complete = json.loads((folder / "checkpoints" / "complete.json").read_text())
            note = json.loads((folder / "step.json").read_text())
        except (OSError, ValueError):
            continue
        assert complete["checkpoint"].startswith("checkpoint-")
        os.kill(note["pid"], signal.SIGKILL)
        killed.append(note["pid"])
        return


@pytest.mark.slow
def test_killed_worker_ends_with_the_same_training(trained):
    """Kill -9 of a worker: the steps, rows, losses and weights of the calm run, and no checkpoint left."""
    from safetensors.torch import load_file

    run, config, undisturbed = trained
    killed: list[int] = []
    folder = Path(run.noun("models", "struck").folder)
    thread = threading.Thread(target=kill_when_saved, args=(folder, killed))
    thread.start()
    struck = finetune(run, config.model_copy(update={"label": "struck", "save_steps": 3, "merge": False}))
    thread.join()
    assert killed
    assert struck.metrics["resumed_from"] is not None
    assert not (folder / "checkpoints").exists()
    for name in ("steps", "rows_seen", "tokens_seen"):
        assert struck.metrics[name] == undisturbed.metrics[name]
    histories = [run.noun("models", label).read_json("history.json") for label in ("main", "struck")]
    assert [entry["step"] for entry in histories[1]] == list(range(1, 10))
    calm, after = ([entry["loss"] for entry in history] for history in histories)
    np.testing.assert_allclose(after, calm, rtol=1e-4)
    folders = [Path(run.noun("models", label).folder) / "final" for label in ("main", "struck")]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-5)
