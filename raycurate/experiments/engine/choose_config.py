"""The settings of `choose`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from raycurate.evaluation.config import FULL, check_variants
from raycurate.experiments.engine.config import PROBE_DEFAULTS, SweepConfig, TrainingsConfig, check_section
from raycurate.run.paths import Settings
from raycurate.settings import Label, Seed, make_config
from raycurate.stages.selecting.auto import AUTO

CHAMPION = "balanced"
"""What is taken where nothing is proven better."""
LEAST_SEEDS = 3
PROXY_SHARE = 0.05
"""Rows of a proxy training, as a part of all rows, where neither a number nor a smaller budget is given."""


class ChooseConfig(TrainingsConfig):
    """``choose``: which methods, on how many rows, scored by what."""

    command_line = (
        "methods=--methods,--method",
        "ratio",
        "rows",
        "seeds",
        "data=--validation",
        "level",
    )

    methods: tuple[str, ...] = Field(
        ("stratified", "coincide"), min_length=1, description=f"challengers of '{CHAMPION}'; the names of variants too"
    )
    ratio: float = Field(0.2, gt=0, le=1, description="part of all samples that `select` will keep")
    rows: int | None = Field(
        None, ge=1, description="of each proxy training; default: the budget or 5 % of all rows, whichever is less"
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), description="of the selections and of the trainings, at least 3")
    data: Label = Field("validation", description="label of the samples to score on; not the test set")
    level: float = Field(0.05, gt=0, lt=0.5, description="chance, at most, of taking a method that is no better")
    options: dict[str, dict[str, Any]] = Field({}, description="method -> its own options")
    variants: dict[str, Settings] | None = Field(
        None, description="further names among the methods -> settings of `select`, such as {root: {task_power: 0.5}}"
    )
    evaluate: Settings = Field({}, description="settings of `evaluate`")
    samples: Label = "main"
    clusters: Label = "main"

    @model_validator(mode="after")
    def _check(self) -> ChooseConfig:
        for name in ("methods", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} has a value twice")
        if len(self.seeds) < LEAST_SEEDS:
            raise ValueError(f"seeds {list(self.seeds)} are fewer than {LEAST_SEEDS}: what one training does is chance")
        if self.data == self.samples:
            raise ValueError(
                f"data '{self.data}' are the samples that the trainings choose from: what was learned by heart would "
                "count. Name others (--validation LABEL; `raycurate ingest FILE --out RUN --label LABEL` makes them)"
            )
        for name in (FULL, AUTO):
            if name in self.methods:
                raise ValueError(f"'{name}' is no method that a budget of rows can be given to; take it out")
        check_variants(self.variants, self.methods)
        known = (*self.methods, CHAMPION)
        for method in self.options:
            if method not in known:
                raise ValueError(f"options of '{method}', which is not among the methods {list(known)}")
        check_section("finetune", self.finetune, ("selection", "samples", "seed", "label"), by="choice", of="training")
        check_section("evaluate", self.evaluate, ("model", "data", "label"), by="choice", of="training")
        return self

    @property
    def contestants(self) -> tuple[str, ...]:
        """The champion, then its challengers."""
        return (CHAMPION, *(method for method in self.methods if method != CHAMPION))

    def proxy_rows(self, num_rows: int) -> int:
        """Rows of each training, of a dataset with `num_rows`."""
        if self.rows is not None:
            return min(self.rows, num_rows)
        return max(1, min(round(self.ratio * num_rows), round(PROXY_SHARE * num_rows)))

    def as_sweep(self, num_rows: int, seeds: tuple[int, ...]) -> SweepConfig:
        """The trainings of these seeds as a sweep of one ratio."""
        shared = ("options", "variants", "samples", "clusters", "evaluate", "data", "max_concurrent", "replace")
        values = {name: getattr(self, name) for name in shared} | {
            "methods": self.contestants,
            "ratios": (self.proxy_rows(num_rows) / num_rows,),
            "seeds": seeds,
            "finetune": {**PROBE_DEFAULTS, **self.finetune},
            "label": f"choose-{self.label}",
        }
        return make_config(SweepConfig, values, "choose")
