"""The table of stages and experiments: one row says all that others must know of one.

The recipe's sections, the order of the pipeline, the package's face, `raycurate settings`, the versions that
fingerprints hold and the "run this command first" hints are read from here. A module is named as text and imported
when its function is called: whoever asks for a name or a version waits for neither torch nor Ray.

To add a stage: its file, and its row below.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from raycurate.errors import unknown_name


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, one experiment, or a part of one that makes nouns of its own.

    Attributes:
        name: as descriptions of nouns and the command line have it.
        version: of its code. Another number makes stale what an earlier one made: raise it when the same input gives
            another result.
        function: ``module:name`` below `raycurate`; '' for a part, which its owner calls.
        config: ``module:name`` of its settings.
        makes: the nouns that it writes.
        owner: the stage whose command makes them, of a part.
        public: a name of the package itself: ``raycurate.extract``, ``raycurate.ExtractConfig``.
    """

    name: str
    version: int
    function: str = ""
    config: str = ""
    makes: tuple[str, ...] = ()
    owner: str = ""
    public: bool = False

    @property
    def section(self) -> str:
        """Its section in a recipe."""
        return self.name.replace("-", "_")

    def load(self) -> Any:
        """The function: (run, config) -> manifest, manifests of several nouns, or the rows of a written file."""
        return load(self.function)

    def load_config(self) -> Any:
        """The class of its settings."""
        return load(self.config)


def load(place: str) -> Any:
    """What ``module:name`` below `raycurate` is."""
    module, name = place.split(":")
    return getattr(importlib.import_module(f"raycurate.{module}"), name)


_ROWS = (
    Stage("ingest", 3, "stages.ingest:ingest", "config:IngestConfig", ("samples",), public=True),
    Stage("extract", 1, "stages.extract:extract", "config:ExtractConfig", ("features",), public=True),
    Stage("score", 1, "stages.score:score", "config:ScoreConfig", ("row_scores",), public=True),
    Stage("cluster", 1, "stages.cluster:cluster", "config:ClusterConfig", ("clusters",), public=True),
    Stage("prints", 1, makes=("prints",), owner="dedup"),
    Stage("dedup", 1, "stages.dedup:dedup", "cleaning.config:DedupConfig", ("marks",)),
    Stage("decontaminate", 1, "stages.decontaminate:decontaminate", "cleaning.config:DecontaminateConfig", ("marks",)),
    Stage("rank", 2, "stages.rank:rank", "config:RankConfig", ("ranking",), public=True),
    Stage("select", 2, "stages.select:select", "config:SelectConfig", ("selection",), public=True),
    Stage("export", 1, "stages.export:export", "config:ExportConfig", public=True),
    Stage(
        "balance",
        1,
        "experiments.balance:balance",
        "experiments.engine.weights_config:BalanceProbesConfig",
        ("balance",),
    ),
    Stage(
        "compare-weights",
        1,
        "experiments.compare_weights:compare_weights",
        "experiments.engine.weights_config:CompareWeightsConfig",
        ("weightings",),
    ),
    Stage("tokenize", 2, makes=("tokens",), owner="finetune"),
    Stage("finetune", 1, "stages.finetune:finetune", "training.config:FinetuneConfig", ("models",)),
    Stage("score_net", 1, owner="finetune"),
    Stage("predict", 1, makes=("predictions",), owner="evaluate"),
    Stage("evaluate", 2, "stages.evaluate:evaluate", "evaluation.config:EvaluateConfig", ("scores",)),
    Stage("compare", 1, "experiments.compare:compare", "evaluation.config:CompareConfig", ("scoreboard",)),
    Stage(
        "individual-select",
        1,
        "experiments.individual_select:individual_select",
        "experiments.engine.individual_config:IndividualSelectConfig",
        ("individual_select",),
    ),
    Stage("subset", 1, owner="individual-select"),
    Stage("soup", 1, owner="individual-select"),
    Stage("sweep", 1, "experiments.sweep:sweep", "experiments.engine.config:SweepConfig", ("sweeps",)),
    Stage("choose", 1, "experiments.choose:choose", "experiments.engine.choose_config:ChooseConfig", ("choices",)),
    Stage("sketch", 1, makes=("sketches",), owner="sweep"),
    Stage(
        "transferability",
        1,
        "experiments.transferability:measure_transferability",
        "experiments.engine.measuring_config:TransferabilityConfig",
        ("transferability",),
    ),
    Stage(
        "scaling",
        1,
        "experiments.scaling:measure_scaling",
        "experiments.engine.measuring_config:ScalingConfig",
        ("scaling",),
    ),
)
STAGES = {stage.name: stage for stage in _ROWS}
"""By name, in the order in which a recipe runs them."""


def stage_of(name: str) -> Stage:
    """A row by its name or section. Raises `UserError` for one that is not there."""
    found = STAGES.get(name) or STAGES.get(name.replace("_", "-"))
    if found is None:
        raise unknown_name("stage", name, [stage.name for stage in STAGES.values() if not stage.owner])
    return found


def version_of(name: str) -> int:
    """The version of a stage's code."""
    return STAGES[name].version


def maker_of(noun: str) -> str:
    """The command that makes a noun of this kind; the kind's own name where no stage does."""
    for stage in STAGES.values():
        if noun in stage.makes:
            return stage.owner or stage.name
    return noun


NOUNS = tuple(noun for stage in STAGES.values() for noun in stage.makes)
"""Kinds of nouns in the order of the data."""
