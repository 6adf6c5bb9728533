"""What a command reads and is not there, told before a cluster is started, which takes seconds."""

from __future__ import annotations

import os
from typing import Any

from raycurate.run.store import Run

READ_FIRST = {
    "extract": {"samples": "samples"},
    "score": {"samples": "samples"},
    "cluster": {"features": "features"},
    "finetune": {"selection": "selection"},
    "evaluate": {"data": "samples"},
    "compare": {"samples": "samples", "data": "samples"},
    "choose": {"samples": "samples", "data": "samples"},
    "sweep": {"samples": "samples"},
    "balance": {"samples": "samples", "validation": "samples"},
    "transferability": {"samples": "samples"},
    "scaling": {"samples": "samples"},
}
"""Stage -> field of its settings with a label -> the noun that it is a label of, where settings have no say in it."""
COMPARED = ("compare", "choose", "sweep")
"""Stages that select with several methods."""


def tell_what_is_missing(stage: str, run: Run, config: Any) -> None:
    """Raise the error of a stage whose input is not there.

    Raises:
        UserError: a noun that is not made, a method whose clusters are not, or a model's folder that does not exist.
    """
    from raycurate.stages.engine.lineage import required

    for field, noun in READ_FIRST.get(stage, {}).items():
        label = getattr(config, field)
        if label is None or _is_not_read(config, field):
            continue
        found = run.noun(noun, label)
        if found.manifest() is None:
            required(found)
    if stage in COMPARED:
        _tell_of_methods(run, config)
    if not os.environ.get("RAY_ADDRESS"):  # a cluster's nodes may have a folder that this machine has not
        _tell_of_models(config)


def _is_not_read(config: Any, field: str) -> bool:
    """A selection beside a mixture, a test set beside an evaluator of one's own."""
    if field == "selection":
        return config.mixture is not None
    evaluate = getattr(config, "evaluate", None) or {}
    return field == "data" and bool(getattr(config, "command", None) or evaluate.get("command"))


def _tell_of_methods(run: Run, config: Any) -> None:
    """Find what each method reads."""
    from raycurate.config import SelectConfig
    from raycurate.evaluation.config import FULL, settings_of_line
    from raycurate.selection import build_selector
    from raycurate.settings import make_config
    from raycurate.stages.engine.sources import sources_of

    for method in config.methods:
        if method == FULL:
            continue
        values = {"clusters": config.clusters, **settings_of_line(method, config.options, config.variants)}
        selecting = make_config(SelectConfig, {**values, "samples": config.samples}, "select")
        sources_of(run, selecting, build_selector(selecting.method, selecting.options))


def _tell_of_models(config: Any) -> None:
    """Look for the folders of models among the settings."""
    from raycurate.models.source import resolve_model

    nested = [getattr(config, name, None) or {} for name in ("finetune", "evaluate")]
    models = [getattr(config, "model", None), getattr(config, "clip", None)]
    models += [settings.get("model") for settings in nested if isinstance(settings, dict)]
    for model in models:
        if isinstance(model, str):
            resolve_model(model)
