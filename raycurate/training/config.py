"""The settings of `finetune`. Every default is LLaVA-1.5's recipe (scripts/v1_5/finetune_lora.sh and finetune.sh).

    | setting                      | LoRA                       | full  | projector (pretrain.sh)    |
    | learning rate                | 2e-4                       | 2e-5  | -                          |
    | projector's learning rate    | 2e-5                       | 2e-5  | 1e-3                       |
    | rank / alpha / dropout       | 128 / 256 / 0.05           | -     | -                          |
    | rows per optimizer step      | 128                        | 128   | 128 here, 256 in LLaVA     |
    | epochs, warm-up, schedule    | 1, 0.03, cosine            | same  | same                       |
    | weight decay, longest row    | 0, 2048 tokens             | same  | same                       |
    | vision tower                 | frozen                     | same  | same                       |
    | decoder                      | LoRA                       | full  | frozen                     |

`micro_batch` and `workers` say how the rows of a step are spread and are not part of the fingerprint: the loss is
normalised over the whole step, so they change the result by rounding only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raycurate.run.paths import DeepSpeedName, ImagesPath, LocalPath, ModelName
from raycurate.settings import Label, NounConfig, Seed, execution, node_labels, rejected_share
from raycurate.training.mixture import MixturePart

LORA_LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 2e-5
PROJECTOR_LEARNING_RATE = 2e-5
PRETRAIN_LEARNING_RATE = 1e-3
ORDERS = ("shuffled", "curriculum", "interleaved")
NET_FILE = "score_net.safetensors"
"""The score-net beside the model's own files."""


def _shuffled_is_null(value: Any) -> Any:
    """Shuffled rows are what a training without an order has: finished ones stay what they are."""
    if value not in (None, *ORDERS):
        raise ValueError(f"{value!r} is none of {', '.join(ORDERS)}")
    return None if value == ORDERS[0] else value


class FinetuneConfig(NounConfig):
    """``finetune``: train a vision-language model on the kept rows, each task with its weight."""

    command_line = (
        "model",
        "selection",
        "weighting",
        "score_net",
        "order",
        "order_by",
        "workers",
        "deepspeed",
        "method=--lora/--full",
        "merge",
        "learning_rate",
        "epochs",
        "batch_rows",
        "seed",
    )

    model: ModelName = Field("tiny", description="hub id, local folder, or 'tiny' (the embedded model)")
    samples: Label = "main"
    selection: Label | None = Field("main", description="train on its kept rows; null trains on all samples")
    limit: int | None = Field(None, ge=1, description="train on a random subset of this many of those rows")
    mixture: tuple[MixturePart, ...] | None = Field(
        None, min_length=1, description="rows of several sources, tasks or clusters, instead of samples and selection"
    )
    mixture_seed: Seed = Field(0, description="of the choice of rows of a mixture; training has a seed of its own")
    held_out: tuple[MixturePart, ...] | None = Field(
        None, min_length=1, description="rows whose loss is taken at the end"
    )
    weights: dict[str, float] | None = Field(None, description="weight per task; null weighs every token alike")
    weighting: Literal["ew", "tla", "rlw", "dwa", "igb"] | None = Field(
        None, description="weights that change from step to step, instead of weights; see balancing/online.py"
    )
    score_net: Label | None = Field(
        None, description="label of features, mostly clip: a score-net on them learns each row's weight"
    )
    score_net_learning_rate: float | None = Field(None, gt=0, description="default: the decoder's")

    order: Annotated[Literal["curriculum", "interleaved"] | None, BeforeValidator(_shuffled_is_null)] = Field(
        None, description="of the rows: shuffled (default), curriculum, interleaved; see training/order.py"
    )
    order_by: Literal["loss", "transferability"] | None = Field(
        None, description="what orders them: loss of a row, or transferability of its cluster (default)"
    )
    order_scores: Label | None = Field(None, description="label of the scores with that loss; default: main")
    order_clusters: Label | None = Field(None, description="label of those clusters; default: main")

    method: Literal["lora", "full", "projector"] = Field(
        "lora", description="of the decoder: LoRA, all of it, or none, the projector alone, as LLaVA's first stage does"
    )
    lora_rank: int = Field(128, ge=1)
    lora_alpha: float = Field(256, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    train_projector: bool = Field(True, description="train the projector fully, with LoRA as well")
    train_vision: bool = Field(False, description="train the vision tower as well; LLaVA-1.5 keeps it frozen")
    projector: tuple[str, ...] | None = Field(None, description="module paths of the projector, where not known")

    learning_rate: float | None = Field(
        None, gt=0, description="default: 2e-4 with LoRA, 2e-5 with full, 1e-3 for the projector alone"
    )
    projector_learning_rate: float | None = Field(
        None, gt=0, description="default: 2e-5; learning_rate where that is given, or with method projector"
    )
    epochs: float = Field(1.0, gt=0, description="times that every row is seen; 0.5: half of the rows once")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    batch_rows: int = Field(128, ge=1, description="rows in one optimizer step, over all workers")
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=0, description="0 = no clipping")
    max_length: int = Field(
        2048, ge=8, description="longest row in tokens, images expanded; no longer than the model has positions"
    )
    overlong: Literal["cut", "quarantine"] = Field("cut", description="cut at the end of a turn, or reject the row")
    group_by_length: bool = Field(True, description="batches of rows of like length")
    precision: Literal["auto", "bfloat16", "float32"] = Field("auto", description="auto: bfloat16 on a GPU")
    seed: Seed = Field(0, description="of the order of rows and of new weights")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")
    merge: bool = Field(False, description="with LoRA: also write the merged model, which plain transformers loads")

    label: Label = execution("main")
    workers: int = execution(1, ge=1, description="training processes, one GPU each where there are GPUs")
    gpus_per_worker: float | None = execution(
        None, ge=0, description="default: 1 where the cluster has GPUs, else 0; a number waits for an autoscaler"
    )
    cpus_per_worker: float = execution(1.0, gt=0)
    nodes: dict[str, str] = node_labels()
    threads: int | None = execution(None, ge=1, description="torch threads of a worker without a GPU")
    micro_batch: int | None = execution(None, ge=1, description="rows per worker and forward; default: 16 at most")
    deepspeed: DeepSpeedName | None = execution(
        None, description="zero2, zero3, or a DeepSpeed JSON file; null: plain DDP"
    )
    gradient_checkpointing: bool | None = execution(None, description="default: on a GPU only")
    loader_workers: int | None = execution(
        None, ge=0, description="processes per worker that decode images; default: 4 at most beside a GPU, else 0"
    )
    image_cache_mb: int = execution(256, ge=0, description="processed images kept in each loading process")
    images: ImagesPath | None = execution(None, description="image root, where it is not the one that ingest saw")
    scratch: LocalPath | None = execution(
        None, description="folder for local copies of the tokens and of remote checkpoints"
    )
    logging_steps: int = execution(10, ge=1)
    save_steps: int = execution(200, ge=1, description="optimizer steps between checkpoints")
    keep_checkpoints: int = execution(1, ge=1, description="besides the newest")
    max_failures: int = execution(3, ge=-1, description="restarts after a dead worker or a late start; -1: no bound")
    start_seconds: float = execution(900.0, gt=0, description="longest wait for the workers to start, at each attempt")
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = execution(("tensorboard",))
    strict: bool = execution(False)
    max_rejected: float = rejected_share()
    max_tasks: int = execution(64, ge=1)

    @model_validator(mode="after")
    def _check_rows(self) -> FinetuneConfig:
        if self.weights is not None and self.weighting is not None:
            raise ValueError(f"weights and weighting '{self.weighting}' are both given; give one")
        if self.mixture is not None and self.limit is not None:
            raise ValueError("limit is not for a mixture, whose parts say how many rows they have")
        if self.method == "projector" and not self.train_projector:
            raise ValueError("method projector trains nothing where train_projector is false")
        if self.score_net is not None and (self.weights is not None or self.weighting is not None):
            raise ValueError("a score_net weighs every row: give neither weights nor weighting with it")
        self._check_order()
        if self.score_net is not None and self.mixture is not None:
            raise ValueError("a score_net needs the features of samples: give no mixture with it")
        return self

    def _check_order(self) -> None:
        given = [name for name in ("order_by", "order_scores", "order_clusters") if getattr(self, name) is not None]
        if given and self.order is None:
            raise ValueError(f"{given[0]} says what orders the rows: give order curriculum or interleaved with it")
        if self.order is not None and self.mixture is not None:
            raise ValueError("an order needs numbers of the rows of samples: give no mixture with it")
        if self.order_scores is not None and self.order_by != "loss":
            raise ValueError("order_scores is for order_by loss")
        if self.order_clusters is not None and self.order_by == "loss":
            raise ValueError("order_clusters is for order_by transferability")

    @model_validator(mode="after")
    def _check_batch(self) -> FinetuneConfig:
        if self.batch_rows % self.workers:
            raise ValueError(f"batch_rows {self.batch_rows} is not a multiple of workers {self.workers}")
        rows = self.batch_rows // self.workers
        if self.micro_batch is not None and rows % self.micro_batch:
            raise ValueError(
                f"batch_rows {self.batch_rows} over {self.workers} workers gives {rows} rows each, "
                f"which is not a multiple of micro_batch {self.micro_batch}"
            )
        return self

    @property
    def needs_dashboard(self) -> bool:
        """Ray Train starts its workers."""
        return True

    @property
    def rows_per_forward(self) -> int:
        """Rows of one worker's forward pass: `micro_batch`, or the largest divisor of its rows up to 16."""
        rows = self.batch_rows // self.workers
        return self.micro_batch or max(n for n in range(1, 17) if rows % n == 0)

    @property
    def accumulation(self) -> int:
        """Forward passes of one worker in one optimizer step."""
        return self.batch_rows // self.workers // self.rows_per_forward

    @property
    def rates(self) -> tuple[float, float]:
        """The learning rates of the decoder (with the vision tower, where that is trained) and of the projector."""
        if self.method == "projector":
            rate = self.learning_rate or PRETRAIN_LEARNING_RATE
            return rate, self.projector_learning_rate or rate
        usual = LORA_LEARNING_RATE if self.method == "lora" else FULL_LEARNING_RATE
        rate = self.learning_rate or usual
        return rate, self.projector_learning_rate or (PROJECTOR_LEARNING_RATE if self.learning_rate is None else rate)
