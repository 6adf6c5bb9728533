"""The weights of tasks that a selection follows: given as they are, in a file, or made by `balance` in the same run."""

from __future__ import annotations

from collections.abc import Mapping

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Manifest, Run, fingerprint_of
from raycurate.selection import Goal, Selector
from raycurate.stages.engine.lineage import required
from raycurate.training.weights import check_numbers, read_weights, weights_of


def goal_of(run: Run, config: SelectConfig, selector: Selector, tasks: Mapping[str, int]) -> Goal:
    """How much to keep, of which tasks.

    Raises:
        UserError: weights that cannot be read or do not fit the tasks; shares of tasks for a method that has none.
    """
    weights = _weights(run, config)
    if weights is not None:
        weights_of(tuple(tasks), weights)
    check_shares(config, selector)
    power = 1.0 if config.task_power is None else config.task_power
    return Goal(ratio=config.ratio, seed=config.seed, task_power=power, task_weights=weights)


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
    weights = _weights(run, config)
    if weights is None:
        return {}, []
    made = [] if config.balance is None else [required(run.noun("balance", config.balance))]
    return {"task_weights": fingerprint_of(dict(sorted(weights.items())))}, made


def _weights(run: Run, config: SelectConfig) -> dict[str, float] | None:
    if config.balance is not None:
        noun = run.noun("balance", config.balance)
        required(noun)
        return check_numbers((noun.read_json("weights.json") or {}).get("weights"), f"balance/{config.balance}")
    if isinstance(config.task_weights, str):
        return read_weights(config.task_weights)
    return None if config.task_weights is None else check_numbers(config.task_weights, "task_weights")
