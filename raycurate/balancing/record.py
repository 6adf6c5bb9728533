"""`weights.json`: the weights, and what they were made of, so that a reader can check or repeat them.

{"weights": {task: lambda},                what `raycurate finetune --weights` reads
 "formula": ..., "source": ...,            the equations, with the shares as they were used
 "table": {"path", "sha256"},              the score table
 "groups": {group: tasks} or null,
 "settings": {...}, "temperature": T,      T as it was used, where the setting was auto
 "units": {name: {"difficulty", "out", "in", "gain", "weight_out", "weight_in", "weight_inter",
                  "weight_difficulty", "weight"}},
 "contributions": {from: {to: C}},
 "concerns": [{"unit", "gain", "told"}]}
"""

from __future__ import annotations

import hashlib
from typing import Any

from raycurate.balancing.config import BalanceConfig
from raycurate.balancing.cotbal import Balance
from raycurate.balancing.scores import Groups

SOURCE = "CoTBal, arXiv 2403.04343"


def formula(config: BalanceConfig) -> str:
    """Return the equations that the settings name, in one line."""
    out, inward, difficulty = (f"{share:g}" for share in config.alpha)
    if config.form == "chat":
        parts = "C_ij = (V_j(i) - V_j(base)) / (V_j(j) - V_j(base)); D_i = 1 - V_i(mini_i) / V_i(i)"
    else:
        hard = "V_i(mini_i) / V_i(i)" if config.difficulty == "precise" else "V_i(mini) / V_i(i+mini)"
        parts = f"C_ij = (V_j(i+mini) - V_j(mini)) / (V_j(j+mini) - V_j(mini)); D_i = 1 - {hard}"
    return (
        f"lambda = {out} N softmax(C_out / T) + {inward} N softmax(-C_in / T) + {difficulty} N softmax(D / T); "
        f"C_out,i = mean of C_ij over j != i; C_in,i = mean of C_ji over j != i; {parts}"
    )


def record(
    result: Balance, config: BalanceConfig, *, path: str, data: bytes, groups: Groups | None = None
) -> dict[str, Any]:
    """Return the contents of `weights.json`; `data` are the bytes of the score table at `path`."""
    weights = result.weights
    columns = {
        "difficulty": result.difficulty_N,
        "out": result.out_N,
        "in": result.in_N,
        "gain": result.gain_N,
        "weight_out": weights.out_N,
        "weight_in": weights.in_N,
        "weight_inter": weights.inter_N,
        "weight_difficulty": weights.difficulty_N,
        "weight": weights.final_N,
    }
    return {
        "weights": dict(result.by_task),
        "formula": formula(config),
        "source": SOURCE,
        "table": {"path": path, "sha256": hashlib.sha256(data).hexdigest()},
        "groups": None if groups is None else {group: list(tasks) for group, tasks in groups.items()},
        "settings": config.determining(),
        "temperature": weights.temperature,
        "units": {
            unit: {name: float(values_N[place]) for name, values_N in columns.items()}
            for place, unit in enumerate(result.units)
        },
        "contributions": {
            unit: dict(zip(result.units, row_N.tolist(), strict=True))
            for unit, row_N in zip(result.units, result.contribution_NN, strict=True)
        },
        "concerns": [{"unit": c.unit, "gain": c.gain, "told": str(c)} for c in result.concerns],
    }
