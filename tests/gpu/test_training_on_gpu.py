"""The weighted loss and whole finetune steps on a GPU against a CPU's, in one process without Ray."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from raycurate.encoding.tokens import RowTokenizer
from raycurate.run.store import Run
from raycurate.samples.schema import SAMPLE_SCHEMA, sample_to_row
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TOKENS_SCHEMA, TokenSource
from raycurate.training.loop import LoopSettings, train
from raycurate.training.vitw import kept_positions, next_labels, token_losses, weighted_sums
from tests.training.made_runs import TASKS, made_sample

pytestmark = pytest.mark.gpu


def loss_and_gradient(device, dtype, vocabulary):
    """Sums of a micro-batch and the gradient of its logits."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(6, 40, vocabulary, generator=generator)).to(dtype)
    labels = torch.randint(0, vocabulary, (6, 40), generator=generator)
    labels[torch.rand(6, 40, generator=generator) < 0.4] = -100
    labels[4] = -100
    tasks = torch.randint(0, 3, (6,), generator=generator)
    weights = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64).to(device)
    logits, labels, tasks = logits.to(device).requires_grad_(), labels.to(device), tasks.to(device)
    positions = kept_positions(labels)
    kept_labels = next_labels(labels, positions)
    sums = weighted_sums(token_losses(logits[:, positions], kept_labels), kept_labels, tasks, weights)
    sums.weighted.backward()
    return sums, logits.grad.float().cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [11, 5000])
def test_loss_and_gradients_are_the_cpus(device, dtype, vocabulary):
    """Counts exactly, sums within float32, gradients within the logits' type."""
    found, gradient = loss_and_gradient(device, dtype, vocabulary)
    expected, expected_gradient = loss_and_gradient("cpu", dtype, vocabulary)
    for name in ("tokens_K", "rows_K", "tokens_B"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name
    for name in ("losses_K", "losses_B", "weighted"):
        torch.testing.assert_close(
            getattr(found, name).detach().cpu(), getattr(expected, name).detach(), rtol=1e-5, atol=1e-6
        )
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    """The `tokens` noun of 24 rows for the embedded model."""
    from raycurate.models.adapter import load_processor

    run = Run(str(tmp_path_factory.mktemp("run")))
    noun = run.noun("tokens", "made")
    noun.begin({"stage": "tokenize"})
    samples = [sample_to_row(made_sample(number)) for number in range(24)]
    table = pa.Table.from_pylist(samples, schema=SAMPLE_SCHEMA).to_pylist()
    tokenizer = RowTokenizer(load_processor("tiny"), max_length=512, overlong="quarantine")
    lines = []
    for row, made in zip(table, tokenizer.tokenize(as_samples(table)), strict=True):
        lines.append(
            {
                "key": row["key"],
                "task": row["task"],
                "length": len(made.ids_T),
                "input_ids": made.ids_T,
                "spans": made.spans_A2.reshape(-1),
                "images": row["images"],
                "turns_cut": 0,
            }
        )
    noun.commit_part(0, pa.Table.from_pylist(lines, schema=TOKENS_SCHEMA), rows_in=len(lines))
    noun.finish()
    return noun


def as_samples(rows):
    """Rows with functions that load their images."""
    from raycurate.stages.workers.fragments import as_samples as with_images

    return with_images(rows, None)


def finetune(tokens, folder, on_gpu, **settings):
    """Two steps; the outcome and the trained tensors that were saved."""
    import safetensors.torch

    usual = {"model": "tiny", "selection": None, "workers": 1, "max_steps": 2, "batch_rows": 8, "trackers": ()}
    config = FinetuneConfig(**{**usual, "threads": 1, "loader_workers": 0, **settings})
    outcome = train(
        LoopSettings(
            config=config,
            sources=(TokenSource(tokens),),
            tasks=TASKS,
            task_weights=(0.5, 1.0, 2.0),
            output=str(folder),
            scratch=str(folder / "scratch"),
            on_gpu=on_gpu,
        )
    )
    saved = {}
    for path in sorted((folder / "final").glob("*.safetensors")):
        saved |= {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}
    return outcome, saved


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full", "projector"])
def test_steps_of_a_finetune_are_near_the_cpus(device, tokens, tmp_path, method, precision):
    """The same rows and tokens; losses and weights within the precision (float32 products are TF32 in a training)."""
    on_gpu = device.type == "cuda"
    outcome, saved = finetune(tokens, tmp_path / "ours", on_gpu, method=method, precision=precision)
    expected, theirs = finetune(tokens, tmp_path / "theirs", False, method=method, precision="float32")
    for name in ("steps", "rows_seen", "tokens_seen", "trained_parameters", "parameters"):
        assert getattr(outcome, name) == getattr(expected, name), name
    assert outcome.steps == 2
    assert outcome.loss == pytest.approx(expected.loss, rel=2e-2)
    assert saved.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.isfinite(saved[name]).all(), name
        # AdamW moves an entry by about its learning rate a step, whatever the gradient's size.
        limit = 2 * 2.5 * max(config_rates(method)) + 1e-2 * float(tensor.abs().max())
        assert float((saved[name] - tensor).abs().max()) <= limit, name


def config_rates(method):
    """The learning rates of a method."""
    return [rate for rate in FinetuneConfig(model="tiny", selection=None, method=method).rates if rate is not None]


def test_a_finetune_goes_on_from_its_checkpoint(device, tokens, tmp_path):
    """Stopped after a step and started again: two steps in all, sums of tasks kept."""
    on_gpu = device.type == "cuda"
    first, _ = finetune(tokens, tmp_path / "run", on_gpu, method="lora", max_steps=1, save_steps=1, schedule="constant")
    second, _ = finetune(
        tokens, tmp_path / "run", on_gpu, method="lora", max_steps=2, save_steps=1, schedule="constant"
    )
    assert (first.steps, second.steps, second.resumed_from) == (1, 2, 1)
    assert second.rows_seen == 16
    assert np.isfinite(second.loss)
    assert dataclasses.asdict(second)["tasks"].keys() == set(TASKS)
