"""The settings of `transferability` and `scaling`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raycurate.experiments.engine.config import PROBE_DEFAULTS, TrainingsConfig, check_section
from raycurate.run.paths import Settings
from raycurate.selection.transferability import TransferabilityReading
from raycurate.settings import Label, Seed

OWN = ("selection", "samples", "limit", "mixture", "mixture_seed", "held_out", "seed", "label")
"""Settings of `finetune` that the experiments give themselves."""


class TransferabilityConfig(TrainingsConfig):
    """``transferability``: which clusters, how many rows of each, and how to train."""

    command_line = (
        "sources",
        "targets",
        "rows",
        "pairs",
        "clusters",
    )

    sources: int = Field(50, ge=3, description="clusters whose help is measured; the paper has 50")
    targets: int = Field(50, ge=1, description="clusters that they help; the paper has 50")
    rows: int = Field(100, ge=1, description="n, rows of a cluster in a training; the paper's number is not known")
    held_out_rows: int = Field(50, ge=1, description="other rows of each target whose loss is taken")
    pairs: int | None = Field(None, ge=3, description="at most so many pairs, by fewer targets")
    samples: Label = "main"
    clusters: Label = Field("main", description="label of the clusters to read")
    seed: Seed = Field(0, description="of the clusters and rows that are drawn, of the trainings and the bootstrap")
    reading: TransferabilityReading = Field("paper", description="of Eq. 5: paper, or code as the authors' program")
    resamples: int = Field(2000, ge=1, description="of the bootstrap")
    level: float = Field(0.95, gt=0, lt=1, description="part of the resamples that an interval holds")

    @model_validator(mode="after")
    def _check(self) -> TransferabilityConfig:
        check_section("finetune", self.finetune, OWN)
        if self.pairs is not None and self.pairs < self.sources:
            raise ValueError(f"pairs {self.pairs} is less than one target for each of {self.sources} sources")
        return self

    @property
    def affordable_targets(self) -> int:
        """Targets that the budget of pairs allows."""
        return self.targets if self.pairs is None else min(self.targets, self.pairs // self.sources)


class ScalingConfig(TrainingsConfig):
    """``scaling``: how many rows, which stage of training, how to score."""

    command_line = (
        "sizes",
        "stage",
        "seeds",
        "data",
    )

    sizes: tuple[int, ...] = Field(min_length=2, description="rows of each subset")
    stage: Literal["pretrain", "finetune"] = Field("finetune", description="pretrain: the projector alone is trained")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="of the subsets and of the trainings")
    samples: Label = "main"
    data: Label = Field("test", description="label of the samples to score on")
    evaluate: Settings = Field({}, description="settings of `evaluate`")
    best_values: dict[str, float] = Field({}, description="metric -> best value, for metrics of an external evaluator")

    @model_validator(mode="after")
    def _check(self) -> ScalingConfig:
        pretrain = self.stage == "pretrain"
        check_section("finetune", self.finetune, (*OWN, *(("method",) if pretrain else ())))
        check_section("evaluate", self.evaluate, ("model", "data", "label"))
        if list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ValueError(f"sizes {list(self.sizes)} must be 1 or more and ascend, for example 1000,10000")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} has a value twice")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `finetune` that all trainings share."""
        method = {"method": "projector"} if self.stage == "pretrain" else {}
        return {**PROBE_DEFAULTS, **self.finetune, **method}
