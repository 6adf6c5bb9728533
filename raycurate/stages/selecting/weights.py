"""The weights of tasks that a selection follows: given as they are, in a file, or made by `balance` in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest, fingerprint_of
from raycurate.run.paths import balance_of
from raycurate.run.store import Run
from raycurate.selection import Goal, Selector
from raycurate.stages.engine.lineage import required
from raycurate.training.weights import check_numbers, read_weights, weights_of


def goal_of(run: Run, config: SelectConfig, selector: Selector, tasks: Mapping[str, int]) -> Goal:
    """How much to keep, of which tasks.

    Raises:
        UserError: weights that cannot be read or do not fit the tasks; shares of tasks for a method that has none.
    """
    weights = read_task_weights(run, config.task_weights)
    if weights is not None:
        weights_of(tuple(tasks), weights)
    check_shares(config, selector)
    power = own_power(selector) if config.task_power is None else config.task_power
    return Goal(ratio=config.ratio, seed=config.seed, task_power=power, task_weights=weights)


def own_power(selector: Selector) -> float:
    """The power of the shares of tasks that a method takes where none is asked for: 1, unless it says otherwise."""
    return float(getattr(selector, "own_task_power", 1.0))


def check_shares(config: SelectConfig, selector: Selector) -> None:
    """Raise `UserError` for shares of tasks that are set for a method that has none."""
    given = [name for name in ("task_power", "task_weights") if getattr(config, name) is not None]
    if given and config.envelope is None and not getattr(selector, "has_task_shares", False):
        raise UserError(
            f"method '{config.method}' gives tasks no shares that {' and '.join(given)} could set: add --envelope, "
            "which keeps it near such shares, or take the method 'balanced' or 'stratified'"
        )


def weights_read(run: Run, config: SelectConfig) -> tuple[dict[str, str], list[Manifest]]:
    """What a selection's fingerprint holds of its weights: their content, and the balance that made them."""
    weights = read_task_weights(run, config.task_weights)
    if weights is None:
        return {}, []
    label = balance_of(config.task_weights)
    made = [] if label is None else [required(run.noun("balance", label))]
    return {"task_weights": _hash(weights)}, made


def weights_changed(run: Run, source: Any, known: str) -> bool:
    """Whether the weights that a selection was made with are others now; those that cannot be read say nothing."""
    try:
        weights = read_task_weights(run, source)
    except UserError:
        return False
    return weights is not None and _hash(weights) != known


def _hash(weights: Mapping[str, float]) -> str:
    return fingerprint_of(dict(sorted(weights.items())))


def read_task_weights(run: Run, source: Any) -> dict[str, float] | None:
    """The weights of a setting `task_weights`."""
    label = balance_of(source)
    if label is not None:
        noun = run.noun("balance", label)
        required(noun)
        return check_numbers((noun.read_json("weights.json") or {}).get("weights"), f"balance/{label}")
    if isinstance(source, str):
        return read_weights(source)
    return None if source is None else check_numbers(source, "task_weights")
