"""Candidate datasets of Individual Select: ingested under labels of their own, and compared with the baseline's rows.

`in_baseline` is the share of a candidate's rows whose content (messages and image references, `samples/schema.py`) is
in the baseline: a copy of the baseline's rows is seen as one, whatever its gain. Images count by their path below the
image root, or by their bytes where they are embedded, so give candidates the baseline's root.

With a perplexity filter each candidate is tried twice more (POINTS, arXiv 2409.04828, with the control that it lacks):

    NAME-low      the part of its rows with the lowest exp(mean loss of an answer token) under a given model
    NAME-random   as many rows at random: the gain of NAME-low over it is the filter's, not the smaller number's

Cost: reading the candidates; 8 bytes per baseline row for the comparison (two contents share 64 bits of their hash with
a probability of about rows^2 / 2^64); with a filter one forward pass per row of a candidate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.config import IngestConfig, ScoreConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.experiments.engine.subsets import proportional_rows, trainable_rows
from raycurate.run.store import Noun, Run
from raycurate.settings import Label, make_config
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.shards import names_of
from raycurate.stages.ingest import ingest
from raycurate.stages.score import score
from raycurate.stages.select import select
from raycurate.stages.table import version_of
from raycurate.training.mixture import MixturePart


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A candidate.

    Attributes:
        label: of its samples.
        rows: rows that a training gets of it.
        tasks: those rows by task.
        part: those rows in a mixture.
        in_baseline: share of its rows whose content the baseline has.
    """

    name: str
    category: str
    label: Label
    rows: int
    tasks: dict[str, int]
    part: MixturePart
    in_baseline: float


def prepare_candidates(run: Run, config: IndividualSelectConfig, settings: dict[str, Any]) -> list[Dataset]:
    """Ingest all candidates that are not there yet, tokenise them, and count their rows.

    Args:
        run: with the baseline's samples.
        config: the experiment's.
        settings: of `finetune`.

    Raises:
        UserError: a baseline or candidate that cannot be read.
    """
    baseline = run.noun("samples", config.samples)
    images = required(baseline).description["config"].get("images")
    known_N = np.unique(_contents(baseline))
    found = []
    for name, source in config.candidates.items():
        label = f"candidate-{name}"
        values = {"images": images, **config.ingest, "source": source, "label": label, "replace": True}
        ingest(run, make_config(IngestConfig, values, f"candidate '{name}'"))
        category = config.categories.get(name, name)
        labels = {name: label}
        if config.perplexity is not None:
            labels |= _filtered(run, config, name, label)
        for each, own in labels.items():
            found.append(_dataset(run, config, settings, (each, category, own), known_N))
    names = Counter(dataset.name for dataset in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"candidate '{twice[0]}' comes twice; the filter adds -low and -random to names")
    return found


def _dataset(
    run: Run,
    config: IndividualSelectConfig,
    settings: dict[str, Any],
    named: tuple[str, str, Label],
    known_N: NDArray[np.uint64],
) -> Dataset:
    name, category, label = named
    tasks = trainable_rows(run, settings, label)
    part: dict[str, Any] = {"samples": label}
    if config.cap is not None and config.cap < sum(tasks.values()):
        tasks = proportional_rows(tasks, config.cap)
        part["rows"] = tasks
    shared = float(np.isin(_contents(run.noun("samples", label)), known_N).mean())
    return Dataset(
        name=name,
        category=category,
        label=label,
        rows=sum(tasks.values()),
        tasks=tasks,
        part=MixturePart(**part),
        in_baseline=shared,
    )


def _contents(samples: Noun) -> NDArray[np.uint64]:
    """The first 64 bits of each row's content hash, uint64 [N]."""
    hashes = [int(key[:16], 16) for part in samples.iter_parts(["key"]) for key in part["key"].to_pylist()]
    return np.array(hashes, dtype=np.uint64)


def _filtered(run: Run, config: IndividualSelectConfig, name: str, label: Label) -> dict[str, Label]:
    """The samples with the lowest perplexity and as many random ones, each under a label of its own."""
    values = {"scores": ["token_losses"], "blind": False, "model": config.perplexity_model, "replace": True}
    score(run, make_config(ScoreConfig, {**values, "samples": label, "label": label}))
    made = {}
    for kind, method, options in (("low", "perplexity", {"keep": "low"}), ("random", "random", {})):
        own = f"{label}-{kind}"
        choice = {"method": method, "options": options, "ratio": config.perplexity, "samples": label}
        select(run, make_config(SelectConfig, {**choice, "scores": label, "label": own}))
        _keep_selected(run, label, own)
        made[f"{name}-{kind}"] = own
    return made


def _keep_selected(run: Run, source: Label, label: Label) -> None:
    """Samples `label`: the rows of samples `source` that selection `label` keeps."""
    samples, selection, noun = run.noun("samples", source), run.noun("selection", label), run.noun("samples", label)
    manifest = required(samples)
    chosen = required(selection, of=manifest)
    description = {
        "stage": "subset",
        "stage_version": version_of("subset"),
        "config": manifest.description["config"],
        "inputs": {"samples": manifest.fingerprint, "selection": chosen.fingerprint},
        "made_from": names_of([manifest, chosen]),
    }
    if noun.is_done(description):
        return
    begin(noun, description, replace=True)
    tasks: Counter[str] = Counter()
    for shard in range(manifest.shards):
        rows = samples.read_part(shard)
        decided = selection.read_part(shard, ["key", "kept"])
        kept = decided.filter(decided["kept"])["key"]
        rows = rows.filter(pc.is_in(rows["key"], value_set=pa.array(kept.to_pylist(), pa.string())))
        tasks.update(rows["task"].to_pylist())
        noun.commit_part(shard, rows, rows_in=rows.num_rows, extra={"tasks": dict(Counter(rows["task"].to_pylist()))})
    noun.finish(metrics={"tasks": dict(sorted(tasks.items()))})
