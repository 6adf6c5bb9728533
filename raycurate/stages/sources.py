"""Which nouns a selection method reads, under which labels, and the command that makes each of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.selection import Selector
from raycurate.selection.ranked import Ranked
from raycurate.stages.shards import check_made_from
from raycurate.store import Manifest, Noun, Run

ROW_SCORES = "row_scores"
SCORE_NET = "score_net"
EMBEDDINGS = ("last_token", "mean_token", "clip")
CLIP_EXAMPLE = "openai/clip-vit-large-patch14-336"
READABLE = ("clusters", "ranking", ROW_SCORES, "samples")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read for one selection; None for what is not needed.

    Attributes:
        features: what the clusters, or the ranking, are made from.
        clusters: cluster and similarity of each row.
        ranking: order of the rows of each group.
        ranking_scores: scores that the ranking is made from.
        scores: scores that the selection reads itself.
    """

    features: Noun | None = None
    clusters: Noun | None = None
    ranking: Noun | None = None
    ranking_scores: Noun | None = None
    scores: tuple[Noun, ...] = ()

    @property
    def joined(self) -> tuple[Noun, ...]:
        """What is joined to the samples."""
        grouped = self.ranking or self.clusters
        return (*((grouped,) if grouped else ()), *self.scores)

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
        own["ranking"] = run.noun("ranking", ranking_label(config.method))
        if selector.rank_score is not None:
            own["ranking_scores"] = run.noun(ROW_SCORES, score_label(config.scores, selector.rank_score[0]))
        if selector.rank_grouping == "all":
            return Sources(**own, features=run.noun("features", config.features or selector.rank_features))
    if ranked or {"clusters", "ranking"} & set(labels):
        clusters = run.noun("clusters", config.clusters or next(iter(labels.get("clusters", ())), "") or "main")
        manifest = required(clusters)
        own |= {"clusters": clusters, "features": run.noun("features", manifest.description["config"]["features"])}
        if "ranking" in labels and not ranked:
            own["ranking"] = run.noun("ranking", clusters.label)
    return Sources(**own)


def check_sources(sources: Sources, samples: Manifest) -> None:
    """Raise UserError for what is not there or was made from an earlier state of its input."""
    for noun in sources.made_before:
        manifest = required(noun)
        if noun.noun == "clusters":
            assert sources.features is not None, "clusters have features"
            check_made_from(manifest, required(sources.features), command_for(noun))
        else:
            check_made_from(manifest, samples, command_for(noun))


def required(noun: Noun) -> Manifest:
    """The manifest of a noun, or an error with the command that makes it."""
    return noun.require(command_for(noun))


def command_for(noun: Noun) -> str:
    """What to type after `raycurate` to make a noun."""
    run, group = noun.run_uri, noun.label.rsplit("-", 1)[-1]
    if noun.noun == ROW_SCORES and group == "given":
        return f"score {run} --given FILE.parquet"
    if noun.noun == ROW_SCORES and group == SCORE_NET:
        label = "" if noun.label == SCORE_NET else f" --label {noun.label.removesuffix(f'-{SCORE_NET}')}"
        return f"finetune {run} --selection none --score-net clip{label}"
    if noun.noun == ROW_SCORES or (noun.noun == "features" and group in EMBEDDINGS):
        return f"score {run} --scores {group}" + (f" --clip {CLIP_EXAMPLE}" if group == "clip" else "")
    if noun.noun == "clusters" and noun.label != "main":
        return f"cluster {run} --features {noun.label} --label {noun.label} --clusters K"
    return {"features": "extract", "clusters": "cluster", "ranking": "rank"}.get(noun.noun, noun.noun)


def score_label(label: str, group: str) -> str:
    """The label of one group of scores, or of one embedding among the features."""
    return group if label == "main" else f"{label}-{group}"


def ranking_label(method: str) -> str:
    """The label of a method's own ranking; no cluster label is taken for it."""
    return "by-" + re.sub(r"[^A-Za-z0-9._-]", "-", method)
