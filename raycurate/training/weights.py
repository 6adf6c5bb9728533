"""Task weights: a small JSON file {task: lambda}, checked against the tasks that are to be trained on.

`raycurate balance` writes them as {"weights": {task: lambda}, ...} with what they were made of beside; both are read.

Only ratios matter: the loss is divided by the sum of the weights of its tokens. A task that the file does not name, or
a name that no task has, is an error and not a silent 1.0: a misspelt weight would otherwise change nothing, unseen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from raycurate.errors import UserError, unknown_name
from raycurate.run.filesystem import read_bytes, resolve


def read_weights(uri: str) -> dict[str, float]:
    """The weights in a JSON file. Raises `UserError` for anything but a mapping of names to finite numbers above 0."""
    filesystem, path = resolve(uri)
    try:
        values = json.loads(read_bytes(filesystem, path))
    except OSError as error:
        raise UserError(f"cannot read the weights {uri}: {error}") from None
    except ValueError as error:
        raise UserError(f"{uri} is not JSON: {error}. Expected is {{'task': weight, ...}}.") from None
    if isinstance(values, Mapping) and isinstance(values.get("weights"), Mapping):
        values = values["weights"]
    return check_numbers(values, uri)


def check_numbers(values: Any, where: str = "weights") -> dict[str, float]:
    """`values` as a mapping of names to finite numbers above 0; raises `UserError` for anything else."""
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{where} must be a mapping of task names to numbers, such as {{'vqa': 1.0, 'ocr': 0.5}}")
    for task, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise UserError(
                f"{where}: the weight of '{task}' is {value!r}; it must be a finite number above 0. "
                "A task without weight has no rows in the selection: `raycurate select --where \"task <> 'NAME'\"`."
            )
    return {str(task): float(value) for task, value in values.items()}


def weights_of(
    tasks: Collection[str], weights: Mapping[str, float] | None, *, known: Collection[str] | None = None
) -> np.ndarray:
    """The weight of each of `tasks`, in their order, float64 [K]. None weighs every task 1.

    Args:
        tasks: the tasks that are trained on.
        weights: weight per task name.
        known: names that may be in `weights` though no row of them is trained on; default: `tasks`.

    Raises:
        UserError: a name that is not known, a task without weight, or a weight that is not finite and above 0.
    """
    if weights is None:
        return np.ones(len(tasks))
    checked = check_numbers(weights)
    allowed = {*tasks, *(known or ())}
    for name in checked:
        if name not in allowed:
            raise unknown_name("task in the weights", name, allowed)
    missing = [task for task in tasks if task not in checked]
    if missing:
        raise UserError(
            f"no weight for the task{'s' * (len(missing) > 1)} {', '.join(sorted(missing))}. Give every task of the "
            f"training rows a weight; 1.0 leaves a task as it is. Known tasks: {', '.join(sorted(allowed))}"
        )
    return np.array([checked[task] for task in tasks])
