"""What a finetune trains on, and what its loss is taken on: `tokens` nouns, made now or found, and which of their rows.

Without a mixture that is the kept rows of one selection, tokenised for it. The parts of a mixture take rows out of the
tokens of *all* samples of their sources: any number of mixtures share one tokenisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.errors import unknown_name
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.samples.images import ImageLimits
from raycurate.settings import Label
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import MapShards
from raycurate.stages.tokenize import tokenize
from raycurate.stages.workers.fragments import accepted_images
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenSource
from raycurate.training.mixture import MixturePart, mixture_rows


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows for a training.

    Attributes:
        sources: the rows to train on.
        held_out: the rows whose loss is taken at the end.
        tasks: names of all tasks that can be among them, sorted.
        rows_in: rows that were asked for.
        rows_out: those that are trained on.
        quarantined: the others, by reason.
        cut_rows: rows that were cut to the longest length, among all that were tokenised.
        inputs: fingerprints of what was read.
        read: the manifests of the nouns that were read.
    """

    sources: tuple[TokenSource, ...]
    held_out: tuple[TokenSource, ...]
    tasks: tuple[str, ...]
    rows_in: int
    rows_out: int
    quarantined: dict[str, int]
    cut_rows: int
    inputs: dict[str, Any]
    read: tuple[Manifest, ...]


def sample_labels(config: FinetuneConfig) -> list[Label]:
    """The labels of all samples that a finetune reads, each once."""
    parts = [*(config.mixture or ()), *(config.held_out or ())]
    own = [config.samples] if config.mixture is None else []
    return list(dict.fromkeys([*own, *(part.samples for part in parts)]))


def training_rows(run: Run, config: FinetuneConfig, model_fingerprint: str, map_shards: MapShards) -> TrainingRows:
    """Tokenise what is not tokenised yet.

    Raises:
        UserError: samples that are not there, or a mixture that names a task which its source does not have.
    """
    held_out = _sources(run, config, config.held_out or (), model_fingerprint, map_shards)
    inputs: dict[str, Any] = {"held_out": _fingerprints(held_out)} if held_out else {}
    if config.mixture is None:
        tokens = tokenize(run, config, model_fingerprint, map_shards)
        found = tokens.require("finetune")
        sources: tuple[TokenSource, ...] = (
            TokenSource(tokens, _image_root(run, config, config.samples), limits=_limits(run, config.samples)),
        )
        rows_in, rows_out, quarantined = found.rows_in, found.rows_out, found.quarantined
        inputs["tokens"] = found.fingerprint
    else:
        sources = _sources(run, config, config.mixture, model_fingerprint, map_shards)
        rows_out = mixture_rows(config.mixture, {_samples(s): s.noun.require("finetune").rows_out for s in sources})
        rows_in, quarantined = rows_out, {}
        inputs["tokens"] = _fingerprints(sources)
    metrics = [source.noun.require("finetune").metrics for source in (*sources, *held_out)]
    cut_rows = {source.noun.label: source.noun.require("finetune").metrics["cut_rows"] for source in sources}
    return TrainingRows(
        sources=sources,
        held_out=held_out,
        tasks=tuple(sorted({task for each in metrics for task in each["tasks"]})),
        rows_in=rows_in,
        rows_out=rows_out,
        quarantined=quarantined,
        cut_rows=sum(cut_rows.values()),
        inputs=inputs,
        read=tuple(noun.require("finetune") for source in (*sources, *held_out) for noun in _nouns(source)),
    )


def _sources(
    run: Run, config: FinetuneConfig, parts: Sequence[MixturePart], model_fingerprint: str, map_shards: MapShards
) -> tuple[TokenSource, ...]:
    """The tokens of all samples of each part's source, with the part to take out of them."""
    sources = []
    for part in parts:
        whole = config.model_copy(update={"samples": part.samples, "selection": None, "limit": None})
        tokens = tokenize(run, whole, model_fingerprint, map_shards)
        clusters = None if part.clusters is None else run.noun("clusters", part.clusters)
        if clusters is not None:
            required(clusters, of=required(run.noun("samples", part.samples)))
        else:
            _check_tasks(part, tokens)
        root = _image_root(run, config, part.samples)
        sources.append(TokenSource(tokens, root, part, clusters, config.mixture_seed, _limits(run, part.samples)))
    return tuple(sources)


def _check_tasks(part: MixturePart, tokens: Noun) -> None:
    known = tokens.require("finetune").metrics["tasks"]
    for task in part.rows or ():
        if task not in known:
            raise unknown_name(f"task of samples/{part.samples}", task, known)


def _samples(source: TokenSource) -> Label:
    assert source.part is not None, "every source of a mixture has its part"
    return source.part.samples


def _fingerprints(sources: Sequence[TokenSource]) -> list[list[str]]:
    return [[noun.require("finetune").fingerprint for noun in _nouns(source)] for source in sources]


def _nouns(source: TokenSource) -> list[Noun]:
    return [source.noun, *([source.clusters] if source.clusters else [])]


def _limits(run: Run, samples: str) -> ImageLimits:
    return accepted_images(run.noun("samples", samples))


def _image_root(run: Run, config: FinetuneConfig, samples: Label) -> str | None:
    root = config.images or run.noun("samples", samples).require("ingest").description["config"].get("images")
    return None if root is None else str(root)
