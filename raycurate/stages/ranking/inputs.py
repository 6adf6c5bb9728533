"""What ``rank`` reads: features, clusters or one score column by row, checked to be of the same samples."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import RankConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.selection.ranked import Ranked, RankedByTargets, ScoredFromColumns
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.names import ROW_SCORES, score_label


@dataclass(frozen=True, slots=True)
class RankInputs:
    """What is ranked: ``clusters`` unless all rows are one group, ``scores`` where the method has a score column.

    ``samples`` are read where each task, or each task in a cluster, is ordered by itself; ``targets``, the features of
    validation rows, and ``target_samples``, their tasks, where targets take turns.
    """

    features: Noun
    clusters: Noun | None = None
    scores: Noun | None = None
    column: str | None = None
    samples: Noun | None = None
    targets: Noun | None = None
    target_samples: Noun | None = None
    derived: ScoredFromColumns | None = None

    @staticmethod
    def of(run: Run, config: RankConfig, method: Ranked) -> RankInputs:
        """What a method reads; raises UserError for nouns that are missing, stale or of different samples."""
        features, clusters, with_tasks = run.noun("features", config.features), None, None
        if method.rank_grouping in ("cluster", "cell"):
            clusters = run.noun("clusters", config.clusters)
            if required(clusters).description["inputs"].get("features") != required(features).fingerprint:
                raise UserError(
                    f"'clusters/{clusters.label}' are not of 'features/{features.label}': name those features, or run "
                    "`raycurate cluster` on these"
                )
        if method.rank_grouping in ("cell", "task"):
            with_tasks = run.noun("samples", _samples_of(required(features)))
        if isinstance(method, RankedByTargets):
            return RankInputs(features, None, None, None, None, *_targets_of(run, config, method, features))
        if method.rank_score is None:
            return RankInputs(features, clusters, samples=with_tasks)
        group, column = method.rank_score
        scores = run.noun(ROW_SCORES, score_label(config.scores, group))
        samples = required(features).description["inputs"]["samples"]
        if required(scores).description["inputs"]["samples"] != samples:
            raise UserError(
                f"'{scores.noun}/{scores.label}' and 'features/{features.label}' are of different samples; make both "
                "again"
            )
        derived = method if isinstance(method, ScoredFromColumns) else None
        return RankInputs(features, clusters, scores, column, with_tasks, derived=derived)

    def manifests(self) -> list[Manifest]:
        """Those of what is read."""
        nouns = (self.features, self.clusters, self.scores, self.samples, self.targets, self.target_samples)
        return [required(noun) for noun in nouns if noun is not None]

    def tasks_of(self, shard: int, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        """The task of each row of a shard."""
        assert self.samples is not None, "tasks are read where they are ranked by themselves"
        found = self.samples.read_part(shard, ["key", "task"])
        where = pc.index_in(keys, value_set=found["key"].combine_chunks())
        return found["task"].take(where.combine_chunks())

    def scores_of(self, shard: int, keys: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """The score of each row of a shard, null where there is none."""
        if self.scores is None or self.column is None:
            return pa.nulls(len(keys), pa.float64())
        columns = (self.column,) if self.derived is None else self.derived.rank_columns
        found = self.scores.read_part(shard, ["key", *columns])
        where = pc.index_in(keys, value_set=found["key"].combine_chunks()).combine_chunks()
        if self.derived is None:
            return found[self.column].cast(pa.float64()).take(where)
        return pa.array(self.derived.rank_score_of(found), from_pandas=True).take(where)


def _samples_of(features: Manifest) -> str:
    """The label of the samples that features are of; what `extract` made before has it among its settings."""
    made_from = features.description.get("made_from") or {}
    found = [name.partition("/")[2] for name in made_from if name.startswith("samples/")]
    return found[0] if found else features.description["config"].get("samples") or "main"


def _targets_of(run: Run, config: RankConfig, method: RankedByTargets, features: Noun) -> tuple[Noun, Noun]:
    """The features of the validation rows and their samples.

    Raises:
        UserError: they are not there, with the commands that make them, or are another model's.
    """
    samples = run.noun("samples", method.targets)
    found = run.noun("features", score_label(method.targets, method.rank_features))
    score = f"`raycurate score {run.uri} --scores {method.rank_features} --set also=[{method.targets}]`"
    if samples.manifest() is None:
        raise UserError(
            f"method '{config.order}' needs validation rows of what is to be learned, one task for each target, and "
            f"there are no 'samples/{method.targets}'. Run `raycurate ingest FILE --images FOLDER --out {run.uri} "
            f"--label {method.targets}`, then {score}; or name the label of others with --set options.targets=LABEL"
        )
    if found.manifest() is None:
        raise UserError(
            f"the validation rows 'samples/{method.targets}' have no '{found.noun}/{found.label}'. Run {score}"
        )
    own, other = required(features).description, required(found, of=required(samples)).description
    for name, a, b in (
        ("model", own["inputs"].get("model"), other["inputs"].get("model")),
        ("dtype", own["inputs"].get("dtype"), other["inputs"].get("dtype")),
        ("max_length", own["config"].get("max_length"), other["config"].get("max_length")),
    ):
        if a != b:
            raise UserError(
                f"'{features.noun}/{features.label}' and '{found.noun}/{found.label}' are of another {name}; run "
                f"{score} with the settings of the first"
            )
    return found, samples
