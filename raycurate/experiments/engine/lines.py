"""One line of a comparison: a training, its scores, and what both took.

`compare` makes its lines under labels of their own and keeps their models; a probe makes one inside a Tune trial and
keeps the numbers. Both train and score by `make_line`, count the same seconds, and put their lines on a scoreboard by
`columns_of` and `scores_on`.

Cost of a line = its selection, tokenisation and training. What its selection needs beforehand is charged whole
(`seconds_of`). Seconds are those of the manifests, all attempts added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycurate.config import SelectConfig
from raycurate.evaluation import Column
from raycurate.evaluation.config import EvaluateConfig
from raycurate.evaluation.relative import Key
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.selection import build_selector
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.sources import check_sources, sources_of
from raycurate.stages.evaluate import SCORES_FILE, evaluate
from raycurate.stages.finetune import finetune
from raycurate.stages.selecting.auto import settled
from raycurate.training.config import FinetuneConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """What an evaluation came to.

    Attributes:
        manifest: of the scores; None where there was no evaluation.
        scores: task -> name -> number.
        headlines: task -> metric -> whether higher is better.
        seconds: wall clock of the generation.
    """

    manifest: Manifest | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    headlines: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    seconds: float = 0.0


def make_line(
    run: Run, trained_as: FinetuneConfig, scored_as: EvaluateConfig | None, *, in_process: bool = False
) -> tuple[Manifest, Evaluated]:
    """Train, then score; a step that is finished costs nothing.

    Args:
        run: holds the samples.
        trained_as: the training.
        scored_as: of the model that it makes; None: the training alone.
        in_process: in this process instead of workers of the cluster.
    """
    trained = finetune(run, trained_as, in_process=in_process)
    return trained, Evaluated() if scored_as is None else score_model(run, scored_as, in_process=in_process)


def score_model(run: Run, config: EvaluateConfig, *, in_process: bool = False) -> Evaluated:
    """Evaluate a model and read what it came to."""
    manifest = evaluate(run, config, in_process=in_process)
    scores = run.noun("scores", config.label).read_json(SCORES_FILE)
    assert scores is not None, "evaluate wrote its scores"
    seconds = float(manifest.metrics.get("generation_seconds", manifest.seconds))
    return Evaluated(manifest=manifest, scores=scores, headlines=manifest.metrics["headlines"], seconds=seconds)


def evaluation_on(settings: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Settings of an evaluation with the label of its test set; a program of the user's own brings its rows itself."""
    return dict(settings) if "command" in settings else {**settings, "data": data}


def columns_of(headlines: Iterable[Mapping[str, Mapping[str, bool]]]) -> list[Column]:
    """The columns of a scoreboard: every headline of its lines once, sorted."""
    columns = {
        (task, metric): Column(task, metric, higher)
        for each in headlines
        for task, metrics in each.items()
        for metric, higher in metrics.items()
    }
    return [columns[key] for key in sorted(columns)]


def scores_on(columns: Iterable[Column], scores: Mapping[str, Mapping[str, float]]) -> dict[Key, float]:
    """The scores of a line that have a column."""
    return {c.key: scores[c.task][c.metric] for c in columns if c.metric in scores.get(c.task, {})}


def needs_of(run: Run, config: SelectConfig) -> list[Noun]:
    """What a selection reads beside the samples, checked, in the order that it is made."""
    config, _ = settled(run, config)
    sources = sources_of(run, config, build_selector(config.method, config.options))
    check_sources(sources, required(run.noun("samples", config.samples)))
    return [*sources.made_before, *(noun for noun in (sources.measured, sources.ranking) if noun is not None)]


def seconds_of(needs: Sequence[Noun]) -> dict[str, float]:
    """Wall clock by noun; what one pass made together is charged once."""
    seconds: dict[str, float] = {}
    passes: set[str] = set()
    for noun in needs:
        manifest = required(noun)
        name = noun.noun if noun.noun not in seconds else f"{noun.noun}/{noun.label}"
        shared = manifest.metrics.get("shared_pass")
        seconds[name] = 0.0 if shared in passes else manifest.seconds
        passes |= {shared} if shared is not None else set()
    return seconds


def training_seconds(run: Run, trained: Manifest) -> float:
    """Tokenisation and training; a short training is not seen by its progress line, so its own clock counts too.

    The rows of a mixture are those of several trainings, and so is their tokenisation: the training alone counts.
    """
    if trained.description["config"].get("mixture") is not None:
        return float(trained.metrics["seconds"])
    fingerprint = trained.description["inputs"]["tokens"]
    selection = trained.description["config"].get("selection") or "all"
    tokens = run.noun("tokens", f"{selection}-{fingerprint[:8]}").manifest()
    own = max(trained.seconds, float(trained.metrics["seconds"]))
    return own + (tokens.seconds if tokens is not None else 0.0)
