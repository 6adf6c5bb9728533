"""What a stage is foreseen to take, noted when its work begins, so that its manifest has it beside what it took.

    begin --> foresee: work by formula (`raycurate.estimate`), rates of the file that RAYCURATE_RATES names, else the
    stated ones --> work.json --> finish --> manifest.estimated_seconds

Where a fact is missing (a card that is not known, a model of an unusual kind) nothing is noted: an estimate must
neither end a stage nor make it wait.
Cost: arithmetic, and one small file. What must be known of a model is found where it is looked at anyway
(`ModelFacts.size`), from a few rows of the first part.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from raycurate.errors import UserError
from raycurate.estimate.geometry import Geometry, geometry_of, meta_network
from raycurate.estimate.places import Cluster, this_machine
from raycurate.estimate.rates import CARDS, Card, Rates, rates_here
from raycurate.estimate.source import Source, read_samples
from raycurate.estimate.tokens import Tokens, tokens_of
from raycurate.estimate.work import Work, time_of
from raycurate.ray_session import cluster_cpus, cluster_gpus
from raycurate.run.store import Noun

PARTS, ROWS, IMAGES = 1, 64, 8
"""Of the samples that are looked at."""
PREPARED_ROWS = 16
log = logging.getLogger("raycurate")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the formulas must know of a model and of the rows that it reads."""

    geometry: Geometry
    tokens: Tokens
    source: Source


def size_of(
    config: Any, processor: Any, name: str, samples: Noun, *, trust_remote_code: bool = False
) -> ModelSize | None:
    """The size of a model, by its configuration, and of some samples; None where anything of it cannot be told."""
    try:
        manifest = samples.manifest()
        assert manifest is not None, "samples are read when they are finished"
        source = read_samples(samples, manifest, parts=PARTS, rows=ROWS, images=IMAGES)
        tokens = tokens_of(processor, config, source, rows=PREPARED_ROWS)
        if tokens is None:
            return None
        geometry = geometry_of(meta_network(config, trust_remote_code=trust_remote_code), name)
        return ModelSize(geometry, tokens, replace(source, samples=(), root=None))
    except Exception as error:  # noqa: BLE001 - models are of many kinds, and an estimate must not end a stage
        log.debug("no estimate of %s: %s: %s", name, type(error).__name__, error)
        return None


def cpus_here(on_cluster: bool = True) -> float:
    """CPUs that share the work of a stage that may run in this process alone."""
    return cluster_cpus() if on_cluster and ray.is_initialized() else 1.0


def cluster_here(gpus: float, cpus: float | None = None) -> Cluster | None:
    """The cluster as one place: its CPUs, and the cards that a stage may take; None where the card is not known."""
    cores = cluster_cpus() if cpus is None else cpus
    if not gpus:
        return this_machine(cores)
    card = _card_here()
    return None if card is None else this_machine(cores, max(1, int(cluster_gpus())), card)


def _card_here() -> Card | None:
    """The card that Ray says its nodes have."""
    kinds = [name.partition(":")[2] for name in ray.cluster_resources() if name.startswith("accelerator_type:")]
    names = {"A100-40G": "A100-40GB", "A100-80G": "A100-80GB", "A100": "A100-40GB", "AMD-Instinct-MI300X": "MI300X"}
    found = [CARDS.get(names.get(kind, kind)) for kind in kinds]
    return found[0] if found else None


def sized_model(model: str, samples: Noun, trust_remote_code: bool) -> ModelSize | None:
    """The size of a model by its name; a task, as it imports transformers."""
    from transformers import AutoConfig

    from raycurate.models.adapter import load_processor
    from raycurate.models.source import resolve_model

    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=trust_remote_code)
    processor = load_processor(model, trust_remote_code=trust_remote_code)
    return size_of(config, processor, model, samples, trust_remote_code=trust_remote_code)


def seconds_here(work: Work, gpus: float = 0.0, cpus: float | None = None) -> float | None:
    """Seconds of some work on the cluster as it stands; None where its card is not known."""
    cluster = cluster_here(gpus, cpus)
    return None if cluster is None else time_of(work, cluster, rates_here()).seconds


def _there(work: Work) -> set[str]:
    """The kinds of processes that need no start: of earlier stages of a session."""
    left = _left(ray.get_runtime_context().get_node_id())
    there = set(left)
    left |= work.keeps
    return there


@functools.cache
def _left(_session: str) -> set[str]:
    """What stages of this process have left to a session, by the node that it began on."""
    return set()


def foresee(
    noun: Noun, work: Callable[[Rates], Work], gpus: float = 0.0, cpus: float | None = None, *, more: bool = False
) -> None:
    """Note what a noun that was begun will take: in the session that there is, or in this process.

    Args:
        noun: begun.
        work: of its stage, by the rates of a core.
        gpus: of a worker of the stage; 0: it takes none.
        cpus: that share the work; default: the cluster's.
        more: the work is that of what a noun was extended by (`Noun.foresee`).
    """
    try:
        found = work(rates_here())
        found = found.without(_there(found)) if ray.is_initialized() else found.in_one_process
        seconds = seconds_here(found, gpus, cpus)
    except UserError as error:  # a file of rates that is not there
        log.warning("no estimate of %s/%s: %s", noun.noun, noun.label, error)
        return
    if seconds is not None:
        noun.foresee(seconds, more=more)
