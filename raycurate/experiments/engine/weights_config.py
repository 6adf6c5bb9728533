"""The settings of `balance` with probes, and of `compare-weights`."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, model_validator

from raycurate.balancing.config import BalanceConfig, Positive
from raycurate.balancing.scores import parse_groups
from raycurate.experiments.engine.config import TrainingsConfig, check_section
from raycurate.run.paths import Settings
from raycurate.settings import Label, Part, Seed

COTBAL = "cotbal"
FINETUNE_OWN = (
    "samples",
    "selection",
    "limit",
    "mixture",
    "mixture_seed",
    "held_out",
    "weights",
    "weighting",
    "seed",
    "label",
)
EVALUATE_OWN = ("model", "data", "tasks", "label")


class ProbeSettings(TrainingsConfig):
    """What every probe of an experiment has in common."""

    samples: Label = Field("main", description="label of the samples to train on")
    rows_per_task: int | None = Field(None, ge=1, description="of each task, use at most this many rows in all")
    evaluate: Settings = Field({}, description="settings of `evaluate`, the same for every probe")
    scores: dict[str, str] = Field({}, description="task -> the metric that is its score, where it has several")

    @model_validator(mode="after")
    def _check_sections(self) -> ProbeSettings:
        check_section("finetune", self.finetune, FINETUNE_OWN, of="probe")
        check_section("evaluate", self.evaluate, EVALUATE_OWN, of="probe")
        return self


class BalanceProbesConfig(ProbeSettings, BalanceConfig):
    """``balance RUN``: N + 1 probe trainings, their scores on a validation set, one weight per task."""

    command_line = (
        "validation",
        "mini",
        "large",
        "temperature",
        "form",
        "difficulty",
        "alpha",
        "fixed",
        "fixed_unscored",
        "strict",
    )

    validation: Label = Field(description="label of the samples that score the probes; no row of the test set")
    mini: Part = Field(1 / 32, description="part of every task in the mini sets")
    large: Part = Field(1.0, description="part of the probed task; the mini sets lie inside it")
    seed: Seed = Field(0, description="of the choice of rows and of the training")
    groups: dict[str, tuple[str, ...]] | None = Field(None, description="group -> tasks, which share one weight")
    fixed_unscored: Positive | None = Field(
        None, description="weight of tasks for which there is no ratio of scores; null: such a task is an error"
    )

    @model_validator(mode="after")
    def _check_rows(self) -> BalanceProbesConfig:
        if self.mini >= self.large:
            raise ValueError(f"mini {self.mini:g} must be below large {self.large:g}, which it lies inside of")
        if self.validation == self.samples:
            raise ValueError(f"validation is '{self.validation}' as samples: a probe would be scored on its own rows")
        if self.groups is not None:
            parse_groups(json.dumps(self.groups), "groups")  # JSON is YAML
        return self


class CompareWeightsConfig(ProbeSettings):
    """``compare-weights``: trainings that differ in their task weights only, against one model per task."""

    command_line = (
        "weightings",
        "seeds",
        "part",
        "data",
    )

    weights: dict[str, Positive] | None = Field(None, description="task -> weight of 'cotbal', as `balance` makes them")
    balance: Label | None = Field(None, description="take the weights of this label of `balance`, instead of weights")
    weightings: tuple[Literal["ew", "tla", "rlw", "dwa", "igb", "cotbal"], ...] = Field(
        ("ew", "tla", "rlw", "dwa", "igb", "cotbal"), min_length=1, description="lines of the table beside STL"
    )
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1, description="of the training; all train on the same rows")
    part: Part = Field(1.0, description="part of every task to train on")
    rows_seed: Seed = Field(0, description="of the choice of rows")
    data: Label = Field("test", description="label of the test set's samples")

    @model_validator(mode="after")
    def _check_lines(self) -> CompareWeightsConfig:
        for name, values in (("weightings", self.weightings), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} has a value twice")
        given = (self.weights is not None) + (self.balance is not None)
        if given != (COTBAL in self.weightings):
            raise ValueError(
                "the weighting 'cotbal', and no other, needs weights: either --weights weights.json, made by "
                "`balance`, or --set balance=LABEL"
            )
        if self.data == self.samples:
            raise ValueError(f"data is '{self.data}' as samples: a model would be scored on its own rows")
        return self
