"""The settings of `sweep`, and what the settings of experiments have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import Field, model_validator

from raycurate.evaluation.config import FULL, check_variants
from raycurate.run.paths import Settings
from raycurate.settings import Label, NounConfig, Seed, execution

# A probe's model is deleted with its logs.
PROBE_DEFAULTS: Mapping[str, Any] = {"trackers": ()}


def check_section(
    name: str, values: Mapping[str, Any], taken: Collection[str], *, by: str = "experiment", of: str = "training"
) -> None:
    """Raise ValueError where a section of settings has one that an experiment gives to each training itself."""
    if found := sorted(set(taken) & set(values)):
        raise ValueError(f"{name}.{found[0]} is set by the {by} itself for each {of}")


def several_processes(finetune: Mapping[str, Any]) -> bool:
    """Whether trainings with these settings are of several processes, which Ray Train starts."""
    return finetune.get("workers", 1) != 1 or finetune.get("deepspeed") is not None


class TrainingsConfig(NounConfig):
    """What the experiments have in common whose trainings run as probes."""

    finetune: Settings = Field({}, description="settings of `finetune`, the same for every training")

    label: Label = execution("main")
    max_concurrent: int | None = execution(None, ge=1, description="trainings at once; default: what the cluster holds")

    @property
    def needs_dashboard(self) -> bool:
        """Whether a training is one of several processes."""
        return several_processes(self.finetune)


class SweepConfig(NounConfig):
    """``sweep``: every method at every temperature, ratio and seed."""

    command_line = (
        "methods=--methods,--method",
        "temperatures",
        "ratios",
        "seeds",
        "data",
    )

    methods: tuple[str, ...] = Field(("coincide",), min_length=1, description="'full' = all rows, with finetune only")
    temperatures: tuple[float, ...] = Field((), description="of the methods that have one; none: each method's default")
    ratios: tuple[float, ...] = Field((0.2,), min_length=1, description="parts of all samples to keep")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="of the selection, and of the training")
    full_seeds: int | None = Field(
        None, ge=1, description="only so many of them for 'full', whose trainings are the longest; default: all"
    )
    options: dict[str, dict[str, Any]] = Field({}, description="method -> its own options")
    variants: dict[str, Settings] | None = Field(
        None, description="further names among the methods -> settings of `select`, such as {root: {task_power: 0.5}}"
    )
    samples: Label = "main"
    clusters: Label = "main"
    frequencies: int = Field(256, ge=2, le=16_384, description="random Fourier features of MMD^2")
    sigma: float = Field(1.0, gt=0, description="kernel width of MMD^2")
    finetune: Settings | None = Field(None, description="settings of `finetune`; null: selection statistics only")
    evaluate: Settings = Field({}, description="settings of `evaluate`")
    data: Label = Field("test", description="label of the test set's samples")
    price_per_hour: float | None = Field(None, gt=0, description="of the cluster; cost is in seconds where not given")

    label: Label = execution("main", description="label of the sweep")
    cpus_per_trial: float = execution(1.0, gt=0, description="of a trial that selects and measures")
    max_concurrent: int | None = execution(None, ge=1, description="trials at once; default: what the cluster carries")

    @property
    def needs_dashboard(self) -> bool:
        """Where every selection is trained."""
        return self.finetune is not None

    @model_validator(mode="after")
    def _check_grid(self) -> SweepConfig:
        for name in ("methods", "temperatures", "ratios", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} has a value twice")
        check_variants(self.variants, self.methods)
        for ratio in self.ratios:
            if not 0 < ratio <= 1:
                raise ValueError(f"ratio {ratio} must be above 0 and at most 1, for example 0.2")
        for temperature in self.temperatures:
            if not 0 < temperature < float("inf"):
                raise ValueError(f"temperature {temperature} must be a positive number (COINCIDE uses 0.1)")
        for method, options in self.options.items():
            if method not in self.methods:
                raise ValueError(f"options of '{method}', which is not among the methods {list(self.methods)}")
            if self.temperatures and "temperature" in options:
                raise ValueError(f"options.{method}.temperature and temperatures are both given; give one")
        if FULL in self.methods and self.finetune is None:
            raise ValueError("method 'full' keeps every row: it is the reference of a sweep with --finetune only")
        return self

    @model_validator(mode="after")
    def _check_sections(self) -> SweepConfig:
        check_section(
            "finetune", self.finetune or {}, ("selection", "samples", "seed", "label"), by="sweep", of="trial"
        )
        check_section("evaluate", self.evaluate, ("model", "data", "label"), by="sweep", of="trial")
        return self
