"""The settings of `individual-select`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raycurate.balancing.individual_select import Rule
from raycurate.errors import UserError, unknown_name
from raycurate.experiments.engine.config import TrainingsConfig, check_section
from raycurate.run.paths import LocalPath, ModelName, Settings
from raycurate.settings import Label, Seed

SoupKind = Literal["greedy", "average", "maximum"]
FINETUNE_OWN = ("selection", "samples", "limit", "mixture", "mixture_seed", "held_out", "seed", "label")


class IndividualSelectConfig(TrainingsConfig):
    """``individual-select``: the candidates, the rule, and how to train and score. The paper's thresholds are unknown.

    Raises:
        ValueError: a category or option that fits no candidate, or a setting that the experiment gives itself.
    """

    command_line = (
        "mode",
        "seeds",
        "categories=--category",
        "threshold_sds",
        "largest_drop",
        "top",
        "cap",
        "perplexity=--perplexity-filter",
        "soup",
        "data",
    )

    candidates: dict[str, LocalPath] = Field(
        min_length=1, description="name -> dataset, in any format that ingest reads"
    )
    categories: dict[str, str] = Field({}, description="name -> category; default: each dataset is its own")
    mode: Literal["parallel", "sequential"] = Field(
        "parallel", description="sequential: an accepted dataset joins the baseline before the next is tried"
    )
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=2, description="of the baseline's trainings: its mean and sd")
    candidate_seeds: int = Field(1, ge=1, description="train each candidate with the first so many seeds; their mean")
    threshold_sds: float = Field(1.0, ge=0, description="keep a gain above so many deviations of the baseline")
    largest_drop: float | None = Field(None, ge=0, description="points that no benchmark may fall; null: no bound")
    top: int | None = Field(None, ge=1, description="most datasets of a category; null: no bound")
    cap: int | None = Field(None, ge=1, description="rows of a candidate that are trained on, at random by task")
    perplexity: float | None = Field(
        None, gt=0, lt=1, description="also try this part of each candidate, lowest perplexity, and as much at random"
    )
    perplexity_model: ModelName = Field("tiny", description="the model whose perplexity it is")
    soup: tuple[SoupKind, ...] = Field((), description="also average the candidates' models: greedy, average, maximum")
    soup_top: int = Field(3, ge=1, description="models in the soup 'maximum'")
    samples: Label = Field("main", description="label of the baseline's samples")
    data: Label = Field("validation", description="label of the samples to score on, not those of the reported test")
    ingest: Settings = Field({}, description="settings of `ingest` for the candidates")
    evaluate: Settings = Field({}, description="settings of `evaluate`")
    best_values: dict[str, float] = Field({}, description="metric -> best value, for metrics of an external evaluator")

    @model_validator(mode="after")
    def _check(self) -> IndividualSelectConfig:
        check_section("ingest", self.ingest, ("source", "label"))
        check_section("finetune", self.finetune, FINETUNE_OWN)
        check_section("evaluate", self.evaluate, ("model", "data", "label"))
        for name in self.categories:
            if name not in self.candidates:
                raise unknown_name("candidate with a category", name, self.candidates)
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds {list(self.seeds)} has a value twice")
        if self.candidate_seeds > len(self.seeds):
            raise UserError(f"candidate_seeds {self.candidate_seeds} is more than the {len(self.seeds)} seeds")
        return self

    @property
    def rule(self) -> Rule:
        """What a candidate must reach."""
        return Rule(self.threshold_sds, self.largest_drop, self.top)
