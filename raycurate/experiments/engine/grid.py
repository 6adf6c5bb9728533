"""The trials of a sweep: which they are, what each is called, and the key under which its result is kept.

    grid = methods x temperatures (of methods that have one) x ratios x seeds, and 'full' x its seeds

A trial's label carries the hash of its selection's config, so two sweeps that ask for the same selection share it.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raycurate.config import SelectConfig
from raycurate.evaluation.config import FULL, settings_of_line
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.lines import evaluation_on
from raycurate.run.manifest import fingerprint_of
from raycurate.selection import get_method
from raycurate.selection.methods.balanced import Balanced
from raycurate.settings import make_config
from raycurate.training.config import FinetuneConfig

log = logging.getLogger("raycurate")


@dataclass(frozen=True)
class Trial:
    """One point of the grid.

    Attributes:
        method: a method's name, or that of a variant.
        temperature: None for a method without one, and where the method's own default is used.
        options: the method's options, the temperature among them.
    """

    sweep: SweepConfig
    method: str
    temperature: float | None
    ratio: float
    seed: int
    options: dict[str, Any]

    @property
    def is_full(self) -> bool:
        """Whether this is the reference that is trained on all rows and selects nothing."""
        return self.method == FULL

    @cached_property
    def select_config(self) -> SelectConfig:
        """The settings of the trial's selection, its label among them."""
        values = {
            "clusters": self.sweep.clusters,
            **settings_of_line(self.method, self.sweep.options, self.sweep.variants),
            "ratio": self.ratio,
            "seed": self.seed,
            "options": self.options,
            "samples": self.sweep.samples,
        }
        config = make_config(SelectConfig, values, "select")
        return config.model_copy(update={"label": f"{self._name}-{fingerprint_of(config.determining())[:8]}"})

    @property
    def label(self) -> str:
        """Label of the trial's selection: readable, and unique by its config."""
        return self.select_config.label

    @property
    def group(self) -> str:
        """What the trials that differ only in their seed have in common, readable."""
        parts = [self.method, *([f"t={self.temperature:g}"] if self.temperature is not None else [])]
        return " ".join(parts if self.is_full else [*parts, f"r={self.ratio:g}"])

    @property
    def _name(self) -> str:
        method = re.sub(r"[^A-Za-z0-9._-]", "-", self.method).lstrip(".-")
        temperature = "" if self.temperature is None else f"-t{self.temperature:g}"
        return f"{method}{temperature}-r{self.ratio:g}-s{self.seed}"

    @cached_property
    def finetune_config(self) -> FinetuneConfig:
        """The settings of the trial's training, but the label."""
        selection = None if self.is_full else self.label
        own = {"samples": self.sweep.samples, "selection": selection, "seed": self.seed}
        return make_config(FinetuneConfig, {**(self.sweep.finetune or {}), **own}, "finetune")

    @property
    def evaluate_settings(self) -> dict[str, Any]:
        """The settings of the trial's evaluation, but model and label."""
        return evaluation_on(self.sweep.evaluate, self.sweep.data)


def grid(sweep: SweepConfig) -> list[Trial]:
    """The trials in the order methods, temperatures, ratios, seeds.

    Raises:
        UserError: an unknown method.
    """
    trials = []
    for method in sweep.methods:
        if method == FULL:
            trials += [Trial(sweep, FULL, None, 1.0, seed, {}) for seed in sweep.seeds[: sweep.full_seeds]]
            continue
        settings = settings_of_line(method, sweep.options, sweep.variants)
        options = settings.get("options", {})
        temperatures: tuple[float | None, ...] = (None,)
        multiplied = has_temperature(settings.get("method", SelectConfig.model_fields["method"].default), options)
        if sweep.temperatures and multiplied:
            temperatures = sweep.temperatures
        elif sweep.temperatures:
            log.info("sweep: method '%s' has no temperature; one trial per ratio and seed", method)
        for temperature in temperatures:
            own = options if temperature is None else {**options, "temperature": temperature}
            trials += [
                Trial(sweep, method, temperature, ratio, seed, own) for ratio in sweep.ratios for seed in sweep.seeds
            ]
    return trials


def has_temperature(method: str, options: Mapping[str, Any]) -> bool:
    """Whether a method takes an option `temperature` that its other options leave in use.

    Raises:
        UserError: an unknown method.
    """
    made = get_method(method)
    used = made is not Balanced or options.get("within") == "coincide"
    return used and "temperature" in inspect.signature(made).parameters
