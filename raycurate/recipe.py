"""A recipe: one YAML file for a whole run, one section per stage; ``--set section.field=value`` on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import model_validator

from raycurate.config import (
    ClusterConfig,
    ExportConfig,
    ExtractConfig,
    IngestConfig,
    RankConfig,
    ScoreConfig,
    SelectConfig,
    SessionConfig,
    StageConfig,
    apply_override,
    make_config,
)
from raycurate.errors import UserError
from raycurate.evaluation.config import CompareConfig, EvaluateConfig
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.experiments.engine.weights_config import BalanceProbesConfig, CompareWeightsConfig
from raycurate.run.paths import LocalPath
from raycurate.training.config import FinetuneConfig

CURATION = ("ingest", "extract", "score", "cluster", "rank", "select", "export")
TRAINING = ("test", "finetune", "evaluate", "compare")
BALANCING = ("validation", "test", "balance", "compare_weights")
NOT_NOUNS = ("ray", "export")
"""Sections that make no noun of the run, so none that could be replaced."""
CHOOSING = ("ingest", "test", "individual_select")


class Recipe(StageConfig):
    """A whole run: one section per stage, in the order in which they run. What has no section is not run.

    Attributes:
        run: folder or URI of the run directory.
        replace: `replace` of every section that does not say otherwise.
        ray: the cluster.
        more_clusters: further clusterings, each of its own features and under its own label.
        validation: rows that score the probes of `balance`, ingested under their own label; none of them is in `test`.
        test: a held-out dataset for `evaluate`, `compare` and `compare_weights`, ingested under its own label.
        balance: probe trainings and the task weights that follow; `jobs/balance.py` runs it.
        compare_weights: trainings that differ in their task weights; with `balance: LABEL` it takes those weights.
    """

    run: LocalPath
    replace: bool = False
    ray: SessionConfig = SessionConfig()  # type: ignore[call-arg]
    ingest: IngestConfig
    extract: ExtractConfig = ExtractConfig()  # type: ignore[call-arg]
    score: ScoreConfig | None = None
    cluster: ClusterConfig
    more_clusters: tuple[ClusterConfig, ...] = ()
    rank: RankConfig = RankConfig()  # type: ignore[call-arg]
    select: SelectConfig = SelectConfig()  # type: ignore[call-arg]
    export: ExportConfig | None = None
    validation: IngestConfig | None = None
    test: IngestConfig | None = None
    balance: BalanceProbesConfig | None = None
    compare_weights: CompareWeightsConfig | None = None
    finetune: FinetuneConfig | None = None
    evaluate: EvaluateConfig | None = None
    compare: CompareConfig | None = None
    individual_select: IndividualSelectConfig | None = None
    sweep: SweepConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _replace_all(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("replace") is not True:
            return values

        def told(name: str, section: Any) -> Any:
            if isinstance(section, list | tuple):
                return [told(name, each) for each in section]
            return {"replace": True, **section} if isinstance(section, dict) and name not in NOT_NOUNS else section

        return {name: told(name, section) for name, section in values.items()}

    @model_validator(mode="after")
    def _check_labels(self) -> Recipe:
        named = {name: getattr(self, name) for name in ("ingest", "validation", "test")}
        labels: dict[str, str] = {}
        for name, config in named.items():
            if config is not None and (other := labels.setdefault(config.label, name)) != name:
                raise ValueError(
                    f"{name}.label is '{config.label}' as {other}'s: one would replace the other's samples"
                )
        clusterings = [clusters.label for clusters in (self.cluster, *self.more_clusters)]
        if twice := [label for label in clusterings if clusterings.count(label) > 1]:
            raise ValueError(f"two clusterings have the label '{twice[0]}': give each of more_clusters its own label")
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``a.b=value`` overrides. Values are YAML: numbers, lists, null, quoted text."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}. jobs/recipes/ holds examples.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of sections (run, ingest, extract, cluster, select, ...)")
    for override in overrides:
        apply_override(values, override)
    return make_config(Recipe, values, str(path))
