"""The settings of the stages up to the export, one class for each (`settings.py` says what they are made of).

Those of `ingest` are in `config/ingest.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raycurate.config.ingest import MIXTURE as MIXTURE
from raycurate.config.ingest import IngestConfig as IngestConfig
from raycurate.config.ingest import SourceConfig as SourceConfig
from raycurate.run.paths import ImagesPath, LocalPath, ModelName, TaskWeightsSource
from raycurate.settings import (
    Label,
    NounConfig,
    OfMethods,
    Part,
    Seed,
    StageConfig,
    execution,
    node_labels,
    rejected_share,
)


class PoolConfig(NounConfig):
    """What stages with loader tasks and a pool of actors have in common; all of it says how, not what."""

    min_actors: int = execution(1, ge=1)
    max_actors: int = execution(64, ge=1, description="actors of the pool, one GPU each where there are GPUs")
    gpus_per_actor: float | None = execution(None, ge=0, description="default: 1 where the cluster has GPUs, else 0")
    cpus_per_actor: float = execution(0.75, gt=0)
    cpus_per_loader: float = execution(0.25, gt=0, description="of a task that reads, decodes and tokenises")
    threads: int = execution(1, ge=1, description="torch threads of an actor without a GPU")
    nodes: dict[str, str] = node_labels()
    images: ImagesPath | None = execution(None, description="image root, where it is not the one that ingest saw")
    strict: bool = execution(False, description="the first rejected row is an error")
    max_rejected: float = rejected_share()
    window_mb: int | None = Field(None, ge=1, description="most MB of a window's processed images; default: 1024")
    stall_seconds: float = execution(1800.0, gt=0, description="a stage that moves nothing this long fails")


class ExtractConfig(PoolConfig):
    """``extract``: forward passes of the reference model -> one unit row per sample."""

    command_line = (
        "model",
        "layers",
        "variant",
        "strict",
    )

    model: ModelName = Field("tiny", description="hub id, local folder, or 'tiny' (the embedded model)")
    layers: Literal["auto"] | tuple[int, ...] = Field("auto", description="0-based decoder layers; auto = five")
    variant: Literal["attn", "ffn", "last_layer", "boolean"] = "attn"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_length: int = Field(
        4096, ge=8, description="longest row in tokens after image expansion; no longer than the model has positions"
    )
    batch_tokens: int = Field(16_384, ge=8, description="padded tokens in one batch")
    batch_rows: int = Field(256, ge=1, description="most rows in one batch")
    window_rows: int = Field(256, ge=1, description="rows that are sorted by length and packed together")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")
    samples: Label = Field("main", description="label of the samples to read")
    label: Label = execution("main", description="label of the features that are written")


ScoreName = Literal[
    "token_losses", "last_token", "mean_token", "weighted_token", "visual", "attended", "gradients", "reference", "clip"
]


class ScoreConfig(PoolConfig):
    """``score``: forward passes that many selection methods share -> scores and embeddings per sample."""

    command_line = (
        "scores",
        "model",
        "clip",
        "given",
        "strict",
    )

    scores: tuple[ScoreName, ...] = Field(
        ("token_losses",), description=f"{', '.join(get_args(ScoreName))}; one pass of each model makes all"
    )
    given: LocalPath | None = Field(None, description="Parquet of `key` and `difficulty`: numbers of your own, no pass")
    model: ModelName = Field("tiny", description="hub id, local folder, or 'tiny': the model of all scores but clip")
    clip: ModelName | None = Field(None, description="CLIP or SigLIP model of the score clip: hub id or local folder")
    gradient_layers: Literal["last", "all"] = Field(
        "last", description="what gradients are of: the last attention's output projection, or all of attention"
    )
    gradient_width: int = Field(64, ge=4, le=256, description="a gradient's sketch has the square of this in numbers")
    blind: bool = Field(True, description="token_losses also without the image (loss_blind): a second, cheaper pass")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_length: int = Field(
        4096, ge=8, description="longest row in tokens after image expansion; no longer than the model has positions"
    )
    batch_tokens: int = Field(16_384, ge=8, description="padded tokens in one batch")
    batch_rows: int = Field(256, ge=1, description="most rows in one batch")
    clip_rows: int = Field(64, ge=1, description="rows in one batch of the CLIP model")
    reference_part: Part = Field(0.05, description="part of each task that the score reference draws and reads")
    reference_seed: Seed = Field(0, description="of that draw; the same number as select's makes both draws nested")
    window_rows: int = Field(256, ge=1, description="rows that are sorted by length and packed together")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")
    samples: Label = Field("main", description="label of the samples to read")
    also: tuple[Label, ...] = execution(
        (), description="labels of more samples, for example [val]: the same scores of these, under their label"
    )
    label: Label = execution("main", description="others than main prefix the labels of what is written")
    max_tasks: int = execution(64, ge=1)


class ClusterConfig(NounConfig):
    """``cluster``: distributed spherical k-means."""

    command_line = (
        "clusters",
        "features",
        "iterations",
        "project",
        "fit_sample",
        "extend",
        "workers",
    )

    clusters: int = Field(ge=1, description="K, the number of clusters; about rows / 66")
    iterations: int = Field(50, ge=1, description="most rounds of k-means")
    seed: Seed = 1234
    init: Literal["random", "kmeans++"] = "random"
    precision: Literal["exact", "fast"] = "exact"
    tolerance: float = Field(
        1e-5, ge=0, description="stop when the mean similarity grows by less, relatively; 0 = never"
    )
    fit_sample: int | None = Field(None, ge=1, description="fit on this many rows, then assign all")
    project: int | None = Field(None, ge=2, description="random projection to this many dimensions before k-means")
    features: Label = Field("main", description="label of the features to read")
    extend: bool = execution(
        False, description="keep the centroids that stand for rows that came since, as long as these fit"
    )
    refit_share: float = execution(
        0.05,
        ge=0,
        le=1,
        description="with extend: fit anew, from the standing centroids, when more of the rows since the fit than this "
        "are less similar than 99 % of those before; 0: always, 1: never",
    )
    label: Label = execution("main")
    workers: int | None = execution(None, ge=1, description="default: one per GPU, else one per two CPUs")
    cpus_per_worker: float | None = execution(None, gt=0)
    gpus_per_worker: float | None = execution(None, ge=0)
    nodes: dict[str, str] = node_labels()
    threads: int | None = execution(None, ge=1)
    cache_gb: float | None = execution(
        None, ge=0, description="rows kept in each worker's memory, the rest is read again; default: what is free"
    )
    block_rows: int = execution(4096, ge=1)
    scratch: LocalPath | None = execution(
        None, description="folder for the workers' local copies; default: a temporary one"
    )


class RankConfig(NounConfig):
    """``rank``: regroup rows; the full order of every group, and with greedy MMD the density of every cluster."""

    order: str = Field(
        "mmd",
        description="mmd; mmd_by_task: of each task in a cluster; or a method: semdedup, d2_pruning, self_filter, ...",
    )
    options: dict[str, Any] = Field(default={}, description="of that method, for example {neighbours: 5}")
    sigma: float = Field(1.0, gt=0, description="width of the Gaussian kernel of mmd")
    max_rows: int = Field(16_384, ge=2, description="largest cluster that mmd ranks whole; beyond it hashed chunks")
    kernel_mb: int = execution(1024, ge=1, description="largest kernel in memory; beyond it in a temporary file")
    memory_gb: float = execution(64.0, gt=0, description="most memory that the rows of one group may take in a task")
    features: Label = "main"
    clusters: Label = Field("main", description="not read by a method that orders all rows together")
    scores: Label = Field("main", description="label of the scores, where the method has one")
    label: Label = execution("main")
    bucket_mb: int = execution(256, ge=1, description="feature bytes that one regrouping task takes")
    max_tasks: int = execution(64, ge=1)


class EnvelopeConfig(BaseModel):
    """Bounds on what a method takes from each task, and a part of it that is drawn (`selection/envelope.py`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    floor: float = Field(0.5, ge=0, le=1, description="least part of its share that a task keeps")
    cap: float | None = Field(2.0, ge=1, description="most times its share that a task keeps; null: no bound")
    random_share: float = Field(0.3, ge=0, le=1, description="part of each task's rows that is drawn at random")


def envelope_fields(value: Any) -> Any:
    """The bounds as fields, from ``0.5,2,0.3``, a list, ``on`` or ``off``."""
    if isinstance(value, str) and value.strip().lower() in ("on", "off", "none"):
        value = value.strip().lower() == "on"
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, int | float):
        value = [value]
    names = tuple(EnvelopeConfig.model_fields)
    if isinstance(value, list | tuple):
        if len(value) > len(names):
            raise ValueError(f"{', '.join(map(str, value))} are more than {', '.join(names)}, for example 0.5,2,0.3")
        value = dict(zip(names, value, strict=False))
    if isinstance(value, dict) and "cap" in value and str(value["cap"]).lower() in ("inf", "none", "null"):
        value = {**value, "cap": None}
    return value


class SelectConfig(NounConfig):
    """``select``: which rows stay."""

    command_line = (
        "method",
        "ratio",
        "seed",
        "where",
        "task_power",
        "keep_selected",
    )

    method: Annotated[str, OfMethods()] = Field(
        "balanced", description="a method's name, package.module:object, or auto: what `choose` took"
    )
    ratio: float = Field(0.2, gt=0, le=1, description="part of all samples to keep")
    seed: Seed = Field(0, description="of every random draw")
    options: dict[str, Any] = Field(default={}, description="the method's own, for example {temperature: 0.1}")
    envelope: Annotated[EnvelopeConfig | None, BeforeValidator(envelope_fields)] = Field(
        None, description="floor, cap and random share of every task, for example 0.5,2,0.3; null: the method alone"
    )
    task_power: float | None = Field(
        None,
        ge=0,
        le=1,
        description="shares of tasks follow their rows to this power: 1, 0.5, 0 = alike; default 1, balanced 0.5",
    )
    task_weights: TaskWeightsSource | None = Field(
        None, description="weights of the shares: JSON of task -> weight, or balance/LABEL of this run"
    )
    where: str | None = Field(
        None,
        description="condition that rows must meet, an SQL expression: 'relevance_min >= 4'",
    )
    marks: tuple[Label, ...] | None = Field(
        None, description="labels of the marks whose rows are left out; null: all that are there; []: none"
    )
    keep_selected: Label | None = Field(
        None, description="label of an earlier selection whose rows stay kept; the ratio counts them"
    )
    samples: Label = "main"
    clusters: Label | None = Field(None, description="label of the clusters; default: the method's own, mostly main")
    features: Label | None = Field(None, description="of methods that order all rows together; default: the method's")
    scores: Label = Field("main", description="label of the scores")
    auto: Label = execution("main", description="label of the choice that method 'auto' follows")
    label: Label = execution("main")
    max_tasks: int = execution(64, ge=1)


class ExportConfig(StageConfig):
    """``export``: the kept rows as a dataset that trainers read."""

    command_line = (
        "format",
        "out",
        "selection=--selection,--label",
        "samples",
    )

    out: LocalPath = Field(description="file to write; a folder for llamafactory, swift_tasks, webdataset and fiftyone")
    format: str = Field(
        "llava",
        description="llava, sharegpt (LLaMA-Factory), swift (ms-swift), messages (TRL), parquet; with a part per task: "
        "llamafactory, swift_tasks, webdataset (Megatron-Energon); to look at: fiftyone",
    )
    task_weights: TaskWeightsSource | None = Field(
        None,
        description="of a format with a part per task: JSON of task -> weight, or balance/LABEL of this run",
    )
    embed_images: bool = Field(True, description="put the image files into a Parquet export; false: absolute paths")
    content: Literal["blocks", "text"] = Field(
        "blocks", description="of a Parquet export: blocks, as TRL wants them, or text with <image> marks"
    )
    images: ImagesPath | None = Field(None, description="image root, where it is not the one that ingest saw")
    train_all: bool = Field(False, description="formats that cannot say which answers are context get such rows too")
    join_turns: bool = Field(
        False, description="llava, sharegpt, llamafactory: write turns of one role in a row as one, not refuse them"
    )
    selection: Label = Field("main", description="label of the selection")
    samples: Label | None = Field(None, description="label of the samples; default: those of the selection")


class SessionConfig(StageConfig):
    """The Ray cluster that the stages run on."""

    address: str | None = Field(None, description="'auto', ray://..., or None: RAY_ADDRESS if set, else a local one")
    num_cpus: int | None = Field(None, ge=1, description="of a local cluster")
    object_store_mb: int | None = Field(None, ge=80, description="of a local cluster")
    dashboard: bool = Field(False, description="of a local cluster; Ray Train and Tune ask its State API")
