"""A worker computes on the device that it was promised, with products as wide as the bounds assume, or says why not."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray
import torch

from raycurate.config import ClusterConfig, ExtractConfig, ScoreConfig
from raycurate.device import keep_wide_sums, require_gpu, use_device
from raycurate.errors import UserError
from raycurate.evaluation.config import EvaluateConfig
from raycurate.run.store import Noun, Run
from raycurate.samples.images import DEFAULT_LIMITS
from raycurate.stages.engine.actor_pool import _Started, readable_error
from raycurate.stages.engine.checkpoints import Checkpoint
from raycurate.stages.engine.model_facts import ModelFacts
from raycurate.stages.workers.evaluate import AnsweringActor
from raycurate.stages.workers.extract import ExtractionActor
from raycurate.stages.workers.finetune import Order, _Worker
from raycurate.stages.workers.kmeans import KMeansJob, KMeansWorker
from raycurate.stages.workers.score import ClipActor, ScoringActor
from raycurate.training.config import FinetuneConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about processes that see no GPU")
FACTS = ModelFacts("f", (0,), 8, 16, "torch.float32")


def test_no_gpu_asked_for_is_a_cpu():
    assert use_device(False, "extract") == torch.device("cpu")


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("cluster", "gpus_per_worker=0"),
        ("finetune", "gpus_per_worker=0"),
        ("extract", "gpus_per_actor=0"),
        ("score", "gpus_per_actor=0"),
        ("evaluate", "gpus_per_actor=0"),
    ],
)
def test_a_promised_gpu_that_is_not_there_names_the_way_out(stage, setting):
    """The stage, the node, the likely cause, and a setting that the stage has."""
    with pytest.raises(UserError, match=f"^{stage}: .*sees none.*--set {setting}"):
        require_gpu(stage)


def _kmeans(noun: Noun) -> None:
    job = KMeansJob(noun, noun, ClusterConfig(clusters=2), 8, ((0, 2),), 1, True, 1)
    KMeansWorker(job, 0, ()).process_id()


def _finetune(noun: Noun) -> None:
    config = FinetuneConfig(model="tiny", selection=None)
    order = Order(
        config=config,
        noun=noun,
        sources=(),
        held_out=(),
        score_features=None,
        tasks=("t",),
        weights=(1.0,),
        on_gpu=True,
        run_id="run",
    )
    _Worker(order, rank=0, local_rank=0, on_train=False).run()


WORKERS = {
    "cluster": _kmeans,
    "extract": lambda noun: ExtractionActor(noun, ExtractConfig(), FACTS, True),
    "score": lambda noun: ScoringActor({"scores": noun}, ScoreConfig(), FACTS, True),
    "score ": lambda noun: ClipActor({"scores": noun}, ScoreConfig(), FACTS, True),
    "evaluate": lambda _: AnsweringActor(
        Checkpoint("tiny"), ("f", "float32"), EvaluateConfig(model="tiny", data="main"), True, DEFAULT_LIMITS
    ),
    "finetune": _finetune,
}


@pytest.mark.parametrize("stage", WORKERS)
def test_every_worker_refuses_to_go_on_without_its_gpu(stage, tmp_path):
    """None of them computes on a CPU in silence."""
    with pytest.raises(UserError, match=f"^{stage.strip()}: Ray gave a worker"):
        WORKERS[stage](Run(str(tmp_path)).noun("models"))


def test_an_actor_that_cannot_start_fails_its_first_call():
    """Ray would start it anew without end; the error of a call ends the stage with its own words."""

    class Refusing:
        def __init__(self, why: str) -> None:
            raise UserError(why)

    actor = _Started(Refusing, {"why": "no GPU here"})
    with pytest.raises(UserError, match="no GPU here"):
        actor(pa.table({}))


def test_what_an_actor_refused_with_is_what_the_stage_says():
    """Ray Data hands out the traceback of an actor's error and no cause."""
    text = (
        "ray::MapWorker\n  File x\nraycurate.errors.UserError: extract: no GPU. Fix it\n\nThe above exception was ..."
    )
    error = readable_error(ray.exceptions.RayError(text))
    assert isinstance(error, UserError)
    assert str(error) == "extract: no GPU. Fix it"
    lost = ray.exceptions.RayError("node died")
    assert readable_error(lost) is lost


def test_products_on_a_gpu_keep_float32_sums():
    """The flags that allow 16-bit partial sums and TF32 are off after a device is chosen."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = True
    keep_wide_sums()
    assert not matmul.allow_bf16_reduced_precision_reduction
    assert not matmul.allow_fp16_reduced_precision_reduction
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_choosing_a_gpu_sets_the_products(monkeypatch):
    """Where CUDA is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    assert use_device(True, "cluster") == torch.device("cuda")
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
