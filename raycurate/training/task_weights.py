"""The weight of each task in the coming optimizer step: fixed, or by a weighting that changes while the model trains.

    tokens of the step, over all ranks  --> weights of the step        ew, tla, rlw
    losses of the last step, over all ranks --> weights of the step    dwa, igb: those of this step are not known yet

Every rank gives the same sums in and so gets the same weights (`balancing/online.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raycurate.balancing.online import OnlineWeighting, TaskLoss


class TaskWeights:
    """lambda of K tasks, step by step."""

    def __init__(
        self, tasks: Sequence[str], weights: Sequence[float], weighting: OnlineWeighting | None = None
    ) -> None:
        """Set up.

        Args:
            tasks: names in the order of their numbers.
            weights: lambda of each task, for the first step where a weighting is given.
            weighting: changes them before each step.
        """
        assert len(tasks) == len(weights)
        self.tasks = tuple(tasks)
        self.weighting = weighting
        self._weights_K = torch.tensor(weights, dtype=torch.float64)

    @property
    def changes(self) -> bool:
        """Whether the weights differ from step to step."""
        return self.weighting is not None

    @property
    def reads_losses(self) -> bool:
        """Whether `see_losses` is needed after every step."""
        return self.weighting is not None and self.weighting.reads_losses

    def on(self, device: torch.device) -> torch.Tensor:
        """The weights of this step, float64 [K]."""
        if self._weights_K.device != device:
            self._weights_K = self._weights_K.to(device)
        return self._weights_K

    def see_tokens(self, tokens_K: torch.Tensor, step: int) -> None:
        """Before a step: its valid tokens per task, over all ranks."""
        if self.weighting is not None and not self.weighting.reads_losses:
            self._update(torch.zeros_like(tokens_K), tokens_K, step)

    def see_losses(self, losses_K: torch.Tensor, tokens_K: torch.Tensor, step: int) -> None:
        """After a step: its summed loss and valid tokens per task, over all ranks."""
        self._update(losses_K, tokens_K, step)

    def _update(self, losses_K: torch.Tensor, tokens_K: torch.Tensor, step: int) -> None:
        assert self.weighting is not None, "fixed weights see nothing"
        sums = zip(self.tasks, losses_K.tolist(), tokens_K.tolist(), strict=True)
        found = self.weighting.update({task: TaskLoss(total, int(tokens)) for task, total, tokens in sums}, step)
        weights_K = torch.tensor([found[task] for task in self.tasks], dtype=torch.float64)
        self._weights_K = weights_K.to(self._weights_K.device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain values."""
        own = {} if self.weighting is None else self.weighting.state()
        return {"weights": self._weights_K.tolist(), "weighting": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        if self.weighting is not None:
            self.weighting.restore(state["weighting"])
            self._weights_K = torch.tensor(state["weights"], dtype=torch.float64)
