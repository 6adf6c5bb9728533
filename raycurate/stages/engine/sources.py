"""Which nouns a selection method reads, and under which labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.selection import Selector
from raycurate.selection.ranked import Ranked
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.names import (
    BY_TASK,
    ROW_SCORES,
    by_task_label,
    command_for,
    ranking_label,
    score_label,
)

READABLE = ("clusters", "ranking", ROW_SCORES, "samples")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read for one selection; None for what is not needed.

    Attributes:
        features: what the clusters, or the ranking, are made from.
        clusters: cluster and similarity of each row.
        ranking: order of the rows of each group.
        measured: the ranking of the clusters, for their numbers, where `ranking` is another.
        ranking_scores: scores that the ranking is made from.
        scores: scores that the selection reads itself.
    """

    features: Noun | None = None
    clusters: Noun | None = None
    ranking: Noun | None = None
    measured: Noun | None = None
    ranking_scores: Noun | None = None
    scores: tuple[Noun, ...] = ()

    @property
    def joined(self) -> tuple[Noun, ...]:
        """What is joined to the samples."""
        grouped = self.ranking or self.clusters
        return (*((grouped,) if grouped else ()), *self.scores)

    @property
    def read(self) -> tuple[Noun, ...]:
        """What the selection reads beside the samples."""
        return (*self.joined, *((self.measured,) if self.measured else ()))

    @property
    def made_before(self) -> tuple[Noun, ...]:
        """What other stages than `rank` and `select` make, in the order that it is made."""
        nouns = (*self.scores, self.ranking_scores, self.features, self.clusters)
        return tuple(dict.fromkeys(noun for noun in nouns if noun is not None))


def sources_of(run: Run, config: SelectConfig, selector: Selector) -> Sources:
    """Find what a method reads, by its `needs` and, if its rows are ranked first, by what the ranking reads.

    Raises:
        UserError: a need that there is no noun for, or clusters that are not there.
    """
    labels: dict[str, list[str]] = {}
    for need in sorted(selector.needs):
        name, _, label = need.partition("/")
        if name not in READABLE:
            raise UserError(f"method '{config.method}' needs '{need}'; it can need: {', '.join(READABLE)}")
        labels.setdefault(name, []).append(label)
    scores = tuple(run.noun(ROW_SCORES, score_label(config.scores, group)) for group in labels.get(ROW_SCORES, ()))
    own: dict[str, Any] = {"scores": scores}
    ranked = isinstance(selector, Ranked)
    if isinstance(selector, Ranked):
        own["ranking"] = run.noun("ranking", ranking_label(config.method, ratio_of(config, selector)))
        if selector.rank_score is not None:
            own["ranking_scores"] = run.noun(ROW_SCORES, score_label(config.scores, selector.rank_score[0]))
        if selector.rank_grouping in ("all", "task"):
            return Sources(**own, features=run.noun("features", config.features or selector.rank_features))
    if ranked or {"clusters", "ranking"} & set(labels):
        clusters = run.noun("clusters", config.clusters or next(iter(labels.get("clusters", ())), "") or "main")
        if clusters.manifest() is None and BY_TASK in labels.get("ranking", ()):
            raise UserError(
                f"method '{config.method}' needs 'clusters/{clusters.label}', which are not there: run `raycurate "
                f"extract` and `raycurate {command_for(clusters)}`. `--method stratified` is the same idea without "
                "features"
            )
        manifest = required(clusters)
        own |= {"clusters": clusters, "features": run.noun("features", manifest.description["config"]["features"])}
        if "ranking" in labels and not ranked:
            own |= _rankings(run, labels["ranking"], clusters.label)
    return Sources(**own)


def ratio_of(config: SelectConfig, selector: Selector) -> float | None:
    """The ratio that a method's ranking is made for; None where one serves all."""
    return (selector.ratio or config.ratio) if hasattr(selector, "ratio") else None


def _rankings(run: Run, wanted: list[str], clusters: str) -> dict[str, Noun]:
    """The greedy orders that a method reads: of clusters, of the tasks in them, or the second and numbers of the first.

    Raises:
        UserError: an order that there is none of.
    """
    for label in wanted:
        if label not in ("", BY_TASK):
            raise UserError(f"there is no 'ranking/{label}'; a method can need 'ranking' and 'ranking/{BY_TASK}'")
    whole = run.noun("ranking", clusters)
    if BY_TASK not in wanted:
        return {"ranking": whole}
    by_task = run.noun("ranking", by_task_label(clusters))
    return {"ranking": by_task, "measured": whole} if "" in wanted else {"ranking": by_task}


def check_sources(sources: Sources, samples: Manifest) -> None:
    """Raise UserError for what is not there, is out of date, or is of other samples."""
    for noun in sources.made_before:
        required(noun, of=samples)
