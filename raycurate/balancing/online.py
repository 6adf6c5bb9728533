"""Task weights that change while the model trains, as small state machines: losses of a step in, weights out.

N tasks, L_i the mean loss of a token of task i, T_i its tokens in the step; all weights are of token losses, for the
normalised loss of `training/vitw.py`, and start at 1.

    ew     lambda_i = 1                                                    every token alike
    tla    lambda_i = mean over present tasks of T / T_i                   so that the loss is the mean of the L_i
    rlw    lambda = N softmax(z), z ~ N(0, I) anew in each step            Lin et al., arXiv 2111.10603
    dwa    lambda = N softmax(r / 2), r_i = mean of L_i over its last 25 steps / over the 25 before
                                                                           Liu et al., arXiv 1803.10704
    igb    lambda = N softmax(L_i / B_i), B_i = mean of L_i in steps 100 to 199; 1 before step 200
                                                                           IGBv1: Dai et al. 2023

The windows are those with which CoTBal (arXiv 2403.04343) runs these baselines, per step; the originals go by epoch.
DWA's history holds ones before the training, so r is 1 for 25 steps and has them in its denominator until step 50.
IGB's own loss takes a logarithm, which CoTBal's use does not.

What a training must bring: sums over *all* its ranks, so that all ranks get the same weights (`TaskLoss` is what one
all-reduce gives). RLW draws from (seed, step), so ranks agree and a resumed training draws the same. A task without
tokens in a step is left out of the mapping or has 0 tokens: its history stays as it is and no zero enters it; it
keeps its place in the softmax, so that weights keep mean 1.

`update` answers with the weights of the step whose losses it gets. TLA and RLW need no loss; for DWA and IGB, whose
losses are known only after the forward passes of the step, a caller may use the answer for the next step.

`state` and `restore` carry a weighting through a checkpoint, as plain values that JSON can hold.

Cost: O(N) per step, 50 numbers per task.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raycurate.errors import UserError, unknown_name

Weights = dict[str, float]

DWA_TEMPERATURE = 2.0
DWA_WINDOW = 25
IGB_BASE_START, IGB_BASE_END = 100, 200


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """One task in one step, over all ranks and micro-batches: the summed loss of its `tokens` valid tokens."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Return the mean loss of a token; there must be one."""
        return self.total / self.tokens


class OnlineWeighting(Protocol):
    """A rule that turns the losses of each step into weights.

    Attributes:
        reads_losses: whether a step's weights follow from losses, and not from its tokens or number alone.
    """

    reads_losses: bool

    def update(self, losses: Mapping[str, TaskLoss], step: int) -> Weights:
        """Take in the losses of optimizer step `step` (the first is 0) and return the weight of every task.

        Raises:
            UserError: a task that the weighting was not made for, or a loss that is not finite.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what the next steps depend on."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of a weighting of the same tasks."""
        ...


class _Stateless:
    """A weighting that remembers nothing."""

    reads_losses = False

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


class EqualWeights(_Stateless):
    """EW: every token weighs 1."""

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:  # noqa: ARG002
        self._tasks = tuple(tasks)

    def update(self, losses: Mapping[str, TaskLoss], step: int) -> Weights:
        """Return ones."""
        _present(losses, self._tasks, step)
        return dict.fromkeys(self._tasks, 1.0)


class TaskLevelAverage:
    """TLA: every task that is present weighs the same, whatever its tokens; the weights of its tokens are 1 on mean."""

    reads_losses = False

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:  # noqa: ARG002
        self._weights = dict.fromkeys(tasks, 1.0)

    def update(self, losses: Mapping[str, TaskLoss], step: int) -> Weights:
        """Return mean tokens of a present task / own tokens; an absent task keeps its weight."""
        present = _present(losses, self._weights, step)
        for task, loss in present.items():
            self._weights[task] = sum(other.tokens for other in present.values()) / len(present) / loss.tokens
        return dict(self._weights)

    def state(self) -> dict[str, Any]:
        """Return the weights, which an absent task keeps."""
        return {"weights": dict(self._weights)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the weights."""
        self._weights = dict(state["weights"])


class RandomWeights(_Stateless):
    """RLW: a new draw in each step, from the seed and the step's number alone."""

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:
        self._tasks, self._seed = tuple(tasks), seed

    def update(self, losses: Mapping[str, TaskLoss], step: int) -> Weights:
        """Return N softmax(z)."""
        _present(losses, self._tasks, step)
        draws_N = np.random.default_rng([self._seed, step]).standard_normal(len(self._tasks))
        return _softmax_weights(self._tasks, draws_N)


class DynamicWeightAverage:
    """DWA: more weight to a task whose loss falls more slowly than the others'."""

    reads_losses = True

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:  # noqa: ARG002
        self._history = {task: deque([1.0] * (2 * DWA_WINDOW), maxlen=2 * DWA_WINDOW) for task in tasks}
        self._seen = dict.fromkeys(tasks, 0)
        self._ratios = dict.fromkeys(tasks, 1.0)

    def update(self, losses: Mapping[str, TaskLoss], step: int) -> Weights:
        """Return N softmax(r / 2). A window of zero loss has no ratio: the task keeps its last one."""
        for task, loss in _present(losses, self._history, step).items():
            history = self._history[task]
            history.append(loss.mean)
            self._seen[task] += 1
            values = list(history)
            before, last = math.fsum(values[:DWA_WINDOW]), math.fsum(values[DWA_WINDOW:])
            if self._seen[task] > DWA_WINDOW:
                self._ratios[task] = _ratio(last, before, self._ratios[task])
        return _softmax_weights(tuple(self._ratios), np.array(list(self._ratios.values())) / DWA_TEMPERATURE)

    def state(self) -> dict[str, Any]:
        """Return the losses of the last steps, the steps seen and the last ratios."""
        history = {task: list(losses) for task, losses in self._history.items()}
        return {"history": history, "seen": dict(self._seen), "ratios": dict(self._ratios)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the history."""
        self._history = {task: deque(losses, maxlen=2 * DWA_WINDOW) for task, losses in state["history"].items()}
        self._seen, self._ratios = dict(state["seen"]), dict(state["ratios"])


class BaseLossWeights:
    """IGBv1: more weight to a task whose loss stands higher against its own early mean."""

    reads_losses = True

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:  # noqa: ARG002
        self._sums = {task: (0.0, 0) for task in tasks}
        self._ratios = dict.fromkeys(tasks, 1.0)

    def update(self, losses: Mapping[str, TaskLoss], step: int) -> Weights:
        """Return N softmax(L / B). A task without base (not seen in those steps, or of zero loss) keeps the ratio 1."""
        for task, loss in _present(losses, self._sums, step).items():
            total, count = self._sums[task]
            if IGB_BASE_START <= step < IGB_BASE_END:
                self._sums[task] = total + loss.mean, count + 1
            elif step >= IGB_BASE_END and count:
                self._ratios[task] = _ratio(loss.mean, total / count, self._ratios[task])
        return _softmax_weights(tuple(self._ratios), np.array(list(self._ratios.values())))

    def state(self) -> dict[str, Any]:
        """Return the sums behind the bases, and the last ratios."""
        return {"sums": {task: list(sums) for task, sums in self._sums.items()}, "ratios": dict(self._ratios)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the sums."""
        self._sums = {task: (float(total), int(count)) for task, (total, count) in state["sums"].items()}
        self._ratios = dict(state["ratios"])


WEIGHTINGS: Mapping[str, Callable[[Sequence[str], int], OnlineWeighting]] = {
    "ew": EqualWeights,
    "tla": TaskLevelAverage,
    "rlw": RandomWeights,
    "dwa": DynamicWeightAverage,
    "igb": BaseLossWeights,
}


def build_weighting(name: str, tasks: Sequence[str], seed: int = 0) -> OnlineWeighting:
    """Return a fresh weighting of `tasks`; raises `UserError` for an unknown name, with the nearest one."""
    if name not in WEIGHTINGS:
        raise unknown_name("weighting", name, WEIGHTINGS)
    return WEIGHTINGS[name](tasks, seed)


def _present(losses: Mapping[str, TaskLoss], known: Collection[str], step: int) -> dict[str, TaskLoss]:
    """The tasks that have tokens in the step."""
    for task, loss in losses.items():
        if task not in known:
            raise unknown_name("task in the losses", task, known)
        if not math.isfinite(loss.total):
            raise UserError(f"the loss of task '{task}' in step {step} is {loss.total}: no weight follows from it")
    return {task: loss for task, loss in losses.items() if loss.tokens > 0}


def _ratio(above: float, below: float, otherwise: float) -> float:
    """above / below where that is a number, as it is not for a loss of (nearly) zero."""
    ratio = above / below if below > 0 else math.inf
    return ratio if math.isfinite(ratio) else otherwise


def _softmax_weights(tasks: Sequence[str], values_N: NDArray[np.float64]) -> Weights:
    shifted_N = np.exp(values_N - values_N.max())
    return dict(zip(tasks, (len(tasks) * shifted_N / shifted_N.sum()).tolist(), strict=True))
