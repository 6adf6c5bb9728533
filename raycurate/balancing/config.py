"""The settings of `balance`. The defaults are CoTBal's for its academic benchmark; 1.0 is its temperature for M3IT."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raycurate.settings import StageConfig, execution

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BalanceConfig(StageConfig):
    """``balance``: scores of probe models -> one weight per task."""

    form: Literal["mini", "chat"] = Field(
        "mini", description="mini: probes share mini sets (Eq. 3); chat: each task alone over the base model (Eq. 15)"
    )
    difficulty: Literal["real", "precise"] = Field(
        "real", description="real: from the N+1 probes (Eq. 9); precise: from mini:TASK and alone:TASK (Eq. 17)"
    )
    temperature: Literal["auto"] | Positive = Field(
        0.5, description="of the softmaxes; auto: the smallest that keeps the final weights in [lowest, highest]"
    )
    alpha: tuple[Share, Share, Share] = Field(
        (0.25, 0.25, 0.5), description="shares of the outward, inward and difficulty weights; they sum to 1"
    )
    fixed: dict[str, Positive] = Field({}, description="tasks left out of the balancing -> their weight")
    lowest: float = Field(0.5, ge=0, lt=1, description="bound of temperature=auto")
    highest: float = Field(2.0, gt=1, description="bound of temperature=auto")
    near_zero: float = Field(
        0.01, ge=0, lt=1, description="report a task whose probe gains less than this part of its score"
    )
    strict: bool = execution(False, description="a reported denominator is an error")

    @field_validator("alpha", mode="before")
    @classmethod
    def _three(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) != 3:
            raise ValueError(f"{list(value)} has {len(value)} shares; expected are three, as in 0.25,0.25,0.5")
        return value

    @model_validator(mode="after")
    def _check_alpha(self) -> BalanceConfig:
        if not math.isclose(sum(self.alpha), 1, abs_tol=1e-9):
            raise ValueError(f"alpha {self.alpha} sums to {sum(self.alpha):g}; its three shares must sum to 1")
        return self
