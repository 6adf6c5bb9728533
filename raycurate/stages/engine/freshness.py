"""Whether the files that a finished noun was made from are those that are there now, for `raycurate status`.

`lineage` beside it compares nouns and code; this looks at what lies outside of the run as well: the source of samples
and the folder of a model, by content, which is known without reading where the files have not been written to since;
given numbers, annotations and the files of an evaluator's command. What is gone says nothing. Limits: a user's own
methods and metrics are not imported here, so they are not looked at.

Cost: a `stat` per source file and model file, and reading the small files; the others where they have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycurate.evaluation.external import named_files
from raycurate.models.file_hashes import hash_files
from raycurate.models.source import model_fingerprint, resolve_model
from raycurate.run.filesystem import content_hash, exists, resolve
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.checkpoints import ADAPTER_FILE, fingerprint_of_parts
from raycurate.stages.engine.lineage import INPUT_NAMES, lost_files, nouns_behind, why_stale
from raycurate.stages.engine.remedies import told_commands
from raycurate.stages.engine.source_check import source_changed
from raycurate.stages.selecting.weights import weights_changed

MODEL_STAGES = ("extract", "score", "tokenize", "finetune")
"""Stages whose descriptions have the hash of `config.model` among their inputs."""
CHECKPOINT_STAGES = ("predict", "evaluate")
"""Likewise, of the model and what was put on it (`checkpoints.checkpoint_facts`)."""
BY_SHARD = ("extract", "score", "prints")
"""Stages whose parts follow from their own shards alone, so that those of samples that have only grown stay."""
ROW_BY_ROW = ("features", "row_scores", "clusters", "ranking", "selection", "prints", "marks")
"""Nouns that have a row for each of the samples."""
REFERENCE = "reference"
"""The output of `score` that is drawn from all rows."""


class Outside:
    """What lies outside of a run, looked at once for each noun, however many are made from it.

    Attributes:
        unreached: noun/label -> the error of a store that cannot be reached; what lies there is taken to be unchanged.
    """

    def __init__(self) -> None:
        self._changed: dict[str, str] = {}
        self.unreached: dict[str, str] = {}

    def changed(self, noun: Noun, manifest: Manifest) -> str:
        """What has changed outside of the run since a noun was made; '' where nothing has that can be seen."""
        name = f"{noun.noun}/{noun.label}"
        if name not in self._changed:
            try:
                self._changed[name] = _outside(noun, manifest)
            except OSError as error:
                self._changed[name] = ""
                self.unreached[name] = " ".join(str(error).split())
        return self._changed[name]


@dataclass(frozen=True, slots=True)
class Outdated:
    """What is the matter with a finished noun.

    Attributes:
        told: what has changed since it was made, and what makes it again.
        missing: rows that its stage then has to do; parts that stay do not count.
    """

    told: str
    missing: int


def why_not_current(noun: Noun, manifest: Manifest, outside: Outside) -> Outdated | None:
    """What has changed since a noun was made; None where nothing has."""
    stale = why_stale(noun, manifest)
    stays = stale is not None and stale.grown
    chain, reason = ((noun,), outside.changed(noun, manifest)) if stale is None else (stale.chain, stale.reason)
    if not reason and (lost := lost_files(noun, manifest)):
        reason, stays = f"'{noun.noun}/{noun.label}' is not whole: {lost}", True
    if stale is None and not reason:
        chain, reason = _above(noun, manifest, outside)
    if not reason:
        return None
    if len(chain) > 1:
        reason = f"'{noun.noun}/{noun.label}': {reason}"
    told = f"{reason}. Made again by {told_commands(reversed(chain))}."
    return Outdated(told, _missing(noun, manifest, stays=stays and not outside.changed(noun, manifest)))


def _missing(noun: Noun, manifest: Manifest, *, stays: bool) -> int:
    """Rows to do, where what there is of its parts stays or not: by now its samples may have others."""
    rows = manifest.rows_in
    if noun.noun in ROW_BY_ROW:
        behind = (found for found in nouns_behind(noun, manifest).values() if found.noun == "samples")
        rows = next((found.rows_out for found in behind), rows)
    stage, output = manifest.description.get("stage"), manifest.description.get("output")
    if not stays or stage not in BY_SHARD or output == REFERENCE:
        return rows
    return max(0, rows - sum(record.rows_in for record in noun.iter_records()))


def _above(noun: Noun, manifest: Manifest, outside: Outside) -> tuple[tuple[Noun, ...], str]:
    """The same of the nouns that it was made from."""
    for name in manifest.description.get("made_from", {}):
        parent = Run(noun.run_uri).noun(*name.split("/", 1))
        found = parent.manifest()
        if found is None:
            continue
        if reason := outside.changed(parent, found):
            return (noun, parent), reason
        chain, reason = _above(parent, found, outside)
        if reason:
            return (noun, *chain), reason
    return (noun,), ""


def _outside(noun: Noun, manifest: Manifest) -> str:
    """What has changed outside of the run, as far as it can be seen without the network."""
    description = manifest.description
    name = f"'{noun.noun}/{noun.label}'"
    inputs = description.get("inputs")
    if not isinstance(inputs, Mapping):
        return ""
    if description.get("stage") == "ingest" and source_changed(noun):
        return f"{name}: {INPUT_NAMES['files']}"
    config = description.get("config") or {}
    stage = description.get("stage", "")
    if stage in (*MODEL_STAGES, *CHECKPOINT_STAGES) and _model_changed(stage, config, inputs):
        return f"{name}: {INPUT_NAMES['model']}"
    for setting, known in (("given", inputs.get("given")), ("annotations", inputs.get("annotations"))):
        if known is not None and _file_changed(config.get(setting), known):
            return f"{name}: {INPUT_NAMES[setting]}"
    if "task_weights" in inputs and weights_changed(
        Run(noun.run_uri), config.get("task_weights"), inputs["task_weights"]
    ):
        return f"{name}: {INPUT_NAMES['task_weights']}"
    if "program" in inputs and _program_changed(config["command"], inputs["program"]):
        return f"{name}: {INPUT_NAMES['program']}"
    return ""


def _file_changed(uri: Any, known: str) -> bool:
    """Whether a file has other content; one that is gone says nothing."""
    if not isinstance(uri, str):
        return False
    filesystem, path = resolve(uri)
    return exists(filesystem, path) and content_hash(filesystem, path) != known


def _program_changed(command: str, known: Sequence[str]) -> bool:
    """Whether a file that a command names has other content; one that is gone says nothing."""
    now = hash_files(named_files(command))
    return len(now) == len(known) and now != list(known)


def _model_changed(stage: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Whether a model's folder holds other files than it did; one that is gone, or that is an adapter, says nothing."""
    model, known = config.get("model"), inputs.get("model")
    if not isinstance(model, str) or not isinstance(known, str):
        return False
    if model != "tiny" and not Path(model).is_dir():
        return False
    source = resolve_model(model)
    if stage in MODEL_STAGES:
        return model_fingerprint(source, None) != known
    return not Path(source, ADAPTER_FILE).is_file() and fingerprint_of_parts([model_fingerprint(source, None)]) != known
