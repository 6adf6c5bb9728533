"""The settings of `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from raycurate.config import PoolConfig
from raycurate.run.paths import Command, LocalPath, ModelName, Settings
from raycurate.selection import METHODS
from raycurate.settings import Label, NounConfig, Seed, execution

FULL = "full"


class EvaluateConfig(PoolConfig):
    """``evaluate``: answer every question of a test set with a model, and score the answers task by task."""

    command_line = (
        "model",
        "data",
        "max_rows",
        "engine",
        "engine_python",
        "command",
    )

    model: ModelName = Field(
        description="hub id, folder, 'tiny', or models/LABEL of the run; LoRA folders load with peft"
    )
    data: Label | None = Field(None, description="label of the test set's samples (`ingest --label test`)")
    max_rows: int | None = Field(None, ge=1, description="only this many test rows, the first by a hash of their key")
    max_rows_per_task: int | None = Field(None, ge=1, description="likewise, of each task at most this many")
    tasks: tuple[str, ...] | None = Field(None, min_length=1, description="only these tasks of the test set")
    metrics: dict[str, str | tuple[str, ...]] = Field({}, description="task or pattern -> metric or several")
    annotations: LocalPath | None = Field(
        None, description="JSON lines: {id, turn (0), references: [...], meta: {...}} for more than one right answer"
    )
    max_new_tokens: int = Field(128, ge=1, description="longest answer; it ends earlier with the end of its turn")
    max_length: int = Field(
        4096, ge=8, description="longest row in tokens, images expanded; no longer than the model has positions"
    )
    batch_tokens: int = Field(32_768, ge=8, description="padded prompt tokens in one batch")
    batch_rows: int = Field(256, ge=1, description="most questions in one batch")
    window_rows: int = Field(512, ge=1, description="rows that are sorted by length and packed together")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    engine: Literal["vllm"] | None = Field(
        None, description="what answers, in an environment of its own; else transformers' generation answers here"
    )
    engine_options: Settings | None = Field(
        None, description="arguments of vllm.LLM, such as {gpu_memory_utilization: 0.8} or {model_impl: transformers}"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")
    command: Command | None = Field(
        None, description="external evaluator: {model} is the merged checkpoint, {output} a folder for its JSON"
    )

    label: Label = execution("main", description="label of the predictions and scores that are written")
    engine_python: str | None = execution(
        None, description="interpreter of the environment with vLLM, on every node; default: this one"
    )
    command_seconds: float | None = execution(None, gt=0, description="longest time for the external evaluator")

    @model_validator(mode="after")
    def _check_source(self) -> EvaluateConfig:
        if (self.data is None) == (self.command is None):
            raise ValueError("give either data (the label of a test set) or command (an external evaluator)")
        if self.max_rows is not None and (self.max_rows_per_task is not None or self.tasks is not None):
            raise ValueError("max_rows counts the rows of all tasks together; with tasks give max_rows_per_task")
        if self.engine is not None and self.command is not None:
            raise ValueError("command answers by itself; leave engine out")
        if self.engine is None and (self.engine_options, self.engine_python) != (None, None):
            raise ValueError("engine_options and engine_python are vLLM's; give engine: vllm with them")
        if self.command is not None and "{model}" not in self.command:
            raise ValueError("command must name the checkpoint as {model}, and may name its output folder as {output}")
        return self


SET_BY_EXPERIMENT = ("ratio", "seed", "samples", "label", "replace")
"""Settings of `select` that an experiment gives to each of its lines itself."""


def check_variants(variants: Mapping[str, Mapping[str, Any]] | None, methods: Sequence[str]) -> None:
    """Raise ValueError for a variant that is not asked for, that hides a method, or that sets what it may not."""
    for name, settings in (variants or {}).items():
        if name in METHODS or name == FULL:
            raise ValueError(f"variant '{name}' has the name of a method; give it another, for example {name}-2")
        if name not in methods:
            raise ValueError(f"variant '{name}' is not among the methods {list(methods)}")
        if found := sorted(set(SET_BY_EXPERIMENT) & set(settings)):
            raise ValueError(f"variants.{name}.{found[0]} is set by the experiment itself for each line")


def settings_of_line(
    name: str, options: Mapping[str, Mapping[str, Any]], variants: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Settings of `select` for a line of an experiment: a method with its options, or a variant."""
    if variants and name in variants:
        return dict(variants[name])
    return {"method": name, "options": dict(options.get(name, {}))}


class CompareConfig(NounConfig):
    """``compare``: select, finetune and evaluate for every method and seed, then the scoreboard."""

    command_line = (
        "methods",
        "seeds",
        "ratio",
        "data",
        "max_test_rows",
    )

    methods: tuple[str, ...] = Field(
        (FULL, "random", "stratified", "coincide"), min_length=1, description="selection methods; 'full' = all rows"
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1, description="of the selection and of the training")
    ratio: float = Field(0.2, gt=0, le=1, description="part of all samples that a method keeps")
    options: dict[str, dict[str, Any]] = Field({}, description="method -> its own options")
    variants: dict[str, Settings] | None = Field(
        None, description="further names among the methods -> settings of `select`, such as {root: {task_power: 0.5}}"
    )
    finetune: Settings = Field({}, description="settings of `finetune`, the same for every line")
    evaluate: Settings = Field({}, description="settings of `evaluate`, the same for every line")
    data: Label = Field("test", description="label of the test set's samples")
    max_test_rows: int | None = Field(None, ge=1, description="only this many test rows")
    samples: Label = "main"
    clusters: Label | None = Field(None, description="of every method that reads some; default: each method's own")
    price_per_hour: float | None = Field(None, gt=0, description="of the cluster; cost is in hours where not given")
    label: Label = execution("main", description="label of the scoreboard; others than main prefix their lines' labels")

    @property
    def needs_dashboard(self) -> bool:
        """Every line is trained."""
        return True

    @model_validator(mode="after")
    def _check_lines(self) -> CompareConfig:
        for name, values in (("methods", self.methods), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} has a value twice")
        check_variants(self.variants, self.methods)
        taken = {"finetune": ("selection", "samples", "seed", "label"), "evaluate": ("model", "data", "label")}
        for section, names in taken.items():
            if found := sorted(set(names) & set(getattr(self, section))):
                raise ValueError(f"{section}.{found[0]} is set by compare itself for each line")
        return self
