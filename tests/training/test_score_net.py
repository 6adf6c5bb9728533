"""The score-net: its gradient, what it learns of rows that cannot be learned, and that a restart changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.features.rows import features_column, features_of_table
from raycurate.run.store import Noun, Run
from raycurate.samples.schema import SAMPLE_SCHEMA, ImageRef, Message, Sample, sample_to_row
from raycurate.training import loop
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenSource
from raycurate.training.loop import LoopSettings
from raycurate.training.score_net import ScoreNet, row_weights, score_gradient
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import png, write_tokens
from tests.training.test_trainer import assert_same_step, train

DIM, ROWS = 8, 48
UNSCORED = 5


@given(rows=st.integers(1, 12), cut=st.integers(0, 12), seed=st.integers(0, 1000), spread=st.floats(0.1, 300))
def test_gradient_is_that_of_the_weighted_loss_however_the_rows_are_split(rows, cut, seed, spread):
    """Autograd through softmax(X theta) . CE in float64, against the sum of two parts of the step."""
    rng = np.random.default_rng(seed)
    features_BD = torch.from_numpy(rng.standard_normal((rows, DIM)))
    losses_B = torch.from_numpy(rng.uniform(0, 5, rows))
    theta_D = torch.from_numpy(spread * rng.standard_normal(DIM)).requires_grad_()
    loss = (torch.softmax(features_BD @ theta_D, dim=0) * losses_B).sum()
    (expected_D,) = torch.autograd.grad(loss, theta_D)
    scores_B = features_BD @ theta_D.detach()
    weights_B = row_weights(scores_B, torch.logsumexp(scores_B, dim=0))
    assert float(weights_B.sum()) == pytest.approx(1.0)
    parts = [slice(0, cut), slice(cut, rows)]
    found_D = sum(score_gradient(features_BD[p], weights_B[p], losses_B[p], loss.detach()) for p in parts)
    np.testing.assert_allclose(found_D.numpy(), expected_D.numpy(), rtol=1e-9, atol=1e-10)


def test_a_saved_net_goes_on_as_the_one_that_was_not_saved(tmp_path):
    """theta, moments and step count come back: the next steps are the same to the bit."""
    gradients = torch.from_numpy(np.random.default_rng(0).standard_normal((6, DIM)))
    kept = ScoreNet(DIM, betas=(0.9, 0.99), weight_decay=0.1)
    for gradient_D in gradients[:3]:
        kept.step(gradient_D, 0.1)
    kept.save(tmp_path / "net.safetensors")
    loaded = ScoreNet(DIM, betas=(0.9, 0.99), weight_decay=0.1)
    loaded.load(tmp_path / "net.safetensors")
    for gradient_D in gradients[3:]:
        kept.step(gradient_D, 0.1)
        loaded.step(gradient_D, 0.1)
    assert torch.equal(kept.theta_D, loaded.theta_D)


def is_noise(number: int) -> bool:
    return number % 2 == 1


def write_scored_run(folder: Path) -> Run:
    """Rows with one answer, rows with random answers; a third are text alone. Features: noise or not, and chance."""
    rng = np.random.default_rng(0)
    run, samples, keys = Run(str(folder)), [], []
    for number in range(ROWS):
        answer = " ".join(map(str, rng.integers(0, 1000, 3))) if is_noise(number) else "word word word"
        data = png(number % 7)
        image = ImageRef(data=data, sha=hashlib.sha256(data).hexdigest()) if number % 3 else None
        question = f"{'<image>' if image else ''}say {number}"
        turns = (Message("user", question), Message("assistant", answer))
        images = (image,) if image else ()
        samples.append(sample_to_row(Sample(turns, images, task="all", source_file="made", source_row=number)))
        keys.append(samples[-1]["key"])
    noun = run.noun("samples")
    noun.begin({"stage": "ingest", "config": {"images": None}})
    noun.commit_part(0, pa.Table.from_pylist(samples, schema=SAMPLE_SCHEMA), rows_in=ROWS)
    noun.finish(metrics={"tasks": {"all": ROWS}})
    rows_ND = rng.standard_normal((ROWS, DIM))
    rows_ND[:, 0] = [4.0 if is_noise(number) else -4.0 for number in range(ROWS)]
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    features = run.noun("features", "clip")
    features.begin({"stage": "score", "inputs": {"samples": noun.require("ingest").fingerprint}})
    has = [number for number in range(ROWS) if number != UNSCORED]
    table = pa.table({"key": [keys[i] for i in has], "features": features_column(rows_ND[has].astype(np.float16))})
    features.commit_part(0, table, rows_in=len(has))
    features.finish(metrics={"dimension": DIM, "block_dim": DIM, "blocks": 1})
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[str, Run, Noun]:
    model = str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava")))
    run = write_scored_run(tmp_path_factory.mktemp("run"))
    return model, run, write_tokens(run, model)


def _settings(made: tuple[str, Run, Noun], folder: Path, **changes) -> LoopSettings:
    model, run, tokens = made
    config = {
        "model": model,
        "selection": None,
        "method": "full",
        "score_net": "clip",
        "batch_rows": 16,
        "micro_batch": 8,
        "group_by_length": False,
        "learning_rate": 5e-3,
        "score_net_learning_rate": 0.1,
        "schedule": "constant",
        "max_steps": 24,
        "precision": "float32",
        "threads": 1,
        "trackers": [],
    }
    return LoopSettings(
        config=FinetuneConfig(**{**config, **changes}),
        sources=(TokenSource(tokens),),
        tasks=("all",),
        task_weights=(1.0,),
        output=str(folder),
        scratch=str(folder / "scratch"),
        score_features=run.noun("features", "clip"),
    )


def _difficulty(run: Run, folder: Path) -> dict[str, float]:
    """-theta . x of each row with features, by key."""
    net = ScoreNet(DIM, betas=(0.9, 0.999), weight_decay=0.0)
    net.load(folder / "final" / "score_net.safetensors")
    table = run.noun("features", "clip").read_part(0)
    rows_ND = torch.from_numpy(features_of_table(table).astype(np.float64))
    return dict(zip(table["key"].to_pylist(), (-net.scores(rows_ND)).tolist(), strict=True))


def test_rows_that_cannot_be_learned_become_the_difficult_ones(made, tmp_path):
    """Half of the answers are random: those rows end with the higher difficulty, of text alone or not."""
    outcome = loop.train(_settings(made, tmp_path))
    run = made[1]
    found = _difficulty(run, tmp_path)
    keys = run.noun("samples").read_part(0, ["key"])["key"].to_pylist()
    noise = [found[key] for i, key in enumerate(keys) if is_noise(i) and i != UNSCORED]
    plain = [found[key] for i, key in enumerate(keys) if not is_noise(i)]
    assert min(noise) > max(plain)
    assert outcome.tasks["all"]["share"] == 1.0
    assert outcome.loss < outcome.tasks["all"]["loss"], "the weighted loss is below the plain one"


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, "zero2"])
def test_the_net_and_the_model_do_not_depend_on_the_ranks(made, tmp_path, deepspeed):
    """Two ranks with micro-batches of four make the steps of one rank with sixteen rows at once."""
    model, run, tokens = made
    settings = {"score_net": "clip", "selection": None, "batch_rows": 16, "max_steps": 3, "learning_rate": 0.05}
    settings |= {"score_net_learning_rate": 0.1, "features": run.noun("features", "clip")}
    settings |= {"tasks": ("all",), "weights": (1.0,)}
    one = train(tmp_path, model, tokens, name="one", micro_batch=16, **settings)
    two = train(tmp_path, model, tokens, ranks=2, name="two", micro_batch=4, deepspeed=deepspeed, **settings)
    assert two[0]["parallelism"] == ("DEEPSPEED" if deepspeed else "MULTI_CPU")
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)
    assert_same_step(two[1], one[1], rtol=1e-3)
    expected = _difficulty(run, tmp_path / "one")
    assert max(map(abs, expected.values())) > 0.1
    assert _difficulty(run, tmp_path / "two") == pytest.approx(expected, rel=1e-4, abs=1e-6)


class _Killed(Exception):
    pass


def test_a_restart_goes_on_with_the_nets_weights_whatever_the_micro_batch(made, tmp_path):
    """Stopped after the checkpoint of step 4 and run again with other micro-batches: the net of an undisturbed run."""
    short = {"max_steps": 7, "save_steps": 2}
    loop.train(_settings(made, tmp_path / "calm", **short))

    def stop(numbers: dict[str, float], checkpoint: str | None) -> None:
        if checkpoint is not None and numbers["step"] == 4:
            raise _Killed

    with pytest.raises(_Killed):
        loop.train(_settings(made, tmp_path / "broken", **short), stop)
    outcome = loop.train(_settings(made, tmp_path / "broken", **{**short, "micro_batch": 4}))
    assert outcome.resumed_from == 4
    calm, broken = _difficulty(made[1], tmp_path / "calm"), _difficulty(made[1], tmp_path / "broken")
    assert max(map(abs, calm.values())) > 0.1
    assert broken == pytest.approx(calm, rel=1e-4, abs=1e-6)
