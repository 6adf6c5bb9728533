"""``transferability``: Eq. 4 of COINCIDE measured by trainings on pairs of clusters, beside its cosine proxy, Eq. 5.

    L_j   loss on held-out rows of target j after training on n rows of j
    L_ij  the same after training on n rows of source i and the same n rows of j
    T_i = mean_j (L_j - L_ij)        S_i = mean_j cos(e_i, e_j)        correlation of T and S over the sources

Sources and targets are random clusters that have enough rows; no cluster is both, as a pair of one cluster with itself
would be that cluster with twice the rows. Larger numbers keep the clusters that smaller ones drew, and so their
trainings. Given a budget of pairs, all sources keep the same targets, and there are fewer of these.

`S over targets` is the mean cosine with the targets alone, against which T was measured; Eq. 5 takes all clusters.

Cost: targets + sources * targets trainings of n and 2 n rows. Limits: a pair is trained on twice the rows of its target
alone, as in the paper, so T holds the gain of more steps too, which is alike for all sources.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.balancing.measured_transferability import MeasuredTransferability, compare_with_proxy
from raycurate.errors import UserError
from raycurate.experiments.engine.config import PROBE_DEFAULTS
from raycurate.experiments.engine.figures import write_figures
from raycurate.experiments.engine.measuring_config import TransferabilityConfig
from raycurate.experiments.engine.probes import Probe, ProbeResult, run_probes
from raycurate.experiments.engine.results import Row
from raycurate.experiments.engine.tables import write_table
from raycurate.features.rows import features_of_table
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.selection.transferability import transferability
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import describe
from raycurate.training.config import FinetuneConfig

Array = NDArray[np.float64]
log = logging.getLogger("raycurate")


@in_session
def measure_transferability(run: Run, config: TransferabilityConfig) -> Manifest:
    """Run every training that has no result yet; write `pairs.csv`, `sources.csv`, `results.json` and the figures.

    Raises:
        UserError: too few clusters with enough rows, a wrong setting, or trainings that failed.
    """
    clusters = run.noun("clusters", config.clusters)
    noun = run.noun("transferability", config.label)
    keep_table(noun, config)
    manifest = required(clusters, of=required(run.noun("samples", config.samples)))
    features = run.noun("features", manifest.description["config"]["features"])
    found = required(features)
    table = clusters.read_table("centroids.parquet")
    size_K = table["size"].to_numpy().astype(np.int64)
    sources, targets = draw_clusters(size_K, config)
    description = describe("transferability", config, {"clusters": manifest.fingerprint}, [manifest])
    begin(noun, {**description, "config": {"clusters": config.clusters}}, replace=config.replace)
    probes = _probes(config, sources, targets)
    results = run_probes(run, noun, "trained", probes, max_concurrent=config.max_concurrent)
    alone_T, joint_ST = _losses(results, len(sources), len(targets))
    centroids_KD = features_of_table(table, "centroid", np.float32)
    block_dim = int(found.metrics["block_dim"])
    proxy_K = transferability(centroids_KD, size_K, reading=config.reading, block_dim=block_dim)
    near_S = _mean_cosines(centroids_KD[sources], centroids_KD[targets])
    whole, near = (
        compare_with_proxy(alone_T, joint_ST, proxy_S, resamples=config.resamples, level=config.level, seed=config.seed)
        for proxy_S in (proxy_K[sources], near_S)
    )
    _write(noun, config, (sources, targets), (alone_T, joint_ST), (whole, near), size_K)
    if whole.why_none is not None:
        log.warning("transferability: %s", whole.why_none)
    return noun.finish(metrics={"pairs": joint_ST.size, "config": config.determining(), **_correlations(whole)})


def draw_clusters(size_K: NDArray[np.int64], config: TransferabilityConfig) -> tuple[NDArray[np.int64], ...]:
    """The clusters to measure, sources and targets, int64 each; disjoint.

    Targets come from the front of one random order of all clusters and sources from its end, each where it has rows
    enough, so that more of either keep those that fewer drew.

    Raises:
        UserError: too few clusters with enough rows.
    """
    order_K = np.random.default_rng(config.seed).permutation(len(size_K))
    needed = config.rows + config.held_out_rows
    targets = [int(k) for k in order_K if size_K[k] >= needed][: config.affordable_targets]
    rest = [int(k) for k in order_K[::-1] if size_K[k] >= config.rows and k not in targets]
    sources = rest[: config.sources]
    if len(targets) < config.affordable_targets or len(sources) < config.sources:
        raise UserError(
            f"of {len(size_K)} clusters, {np.count_nonzero(size_K >= needed)} have the {needed} rows of a target and "
            f"{np.count_nonzero(size_K >= config.rows)} the {config.rows} of a source; {config.affordable_targets} "
            f"targets and {config.sources} other clusters as sources are asked for. Ask for fewer, or for fewer rows."
        )
    return np.array(sources, dtype=np.int64), np.array(targets, dtype=np.int64)


def _probes(config: TransferabilityConfig, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> list[Probe]:
    """The targets alone, then all pairs, source by source."""

    def probe(name: str, groups: Sequence[int], target: int) -> Probe:
        drawn = {"samples": config.samples, "clusters": config.clusters}
        held_out = {**drawn, "rows": {str(target): config.held_out_rows}, "skip": config.rows}
        own = {
            "mixture": [{**drawn, "rows": {str(group): config.rows for group in sorted(groups)}}],
            "held_out": [held_out],
            "mixture_seed": config.seed,
            "seed": config.seed,
        }
        settings = {**PROBE_DEFAULTS, **config.finetune, **own}
        return Probe(name=name, finetune=make_config(FinetuneConfig, settings, "finetune"))

    alone = [probe(f"{j}", [j], j) for j in targets.tolist()]
    return alone + [probe(f"{i}+{j}", [i, j], j) for i in sources.tolist() for j in targets.tolist()]


def _losses(results: Sequence[ProbeResult], sources: int, targets: int) -> tuple[Array, Array]:
    """L_j [T] and L_ij [S, T]: the mean over all held-out tokens, whatever their task."""
    losses = []
    for result in results:
        tokens = [each["tokens"] for each in result.held_out.values()]
        losses.append(float(np.average([each["loss"] for each in result.held_out.values()], weights=tokens)))
    return np.array(losses[:targets]), np.array(losses[targets:]).reshape(sources, targets)


def _mean_cosines(left_SD: Array, right_TD: Array) -> Array:
    """Mean cosine of each row of the left with all rows of the right, [S]."""
    unit_SD, unit_TD = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (left_SD, right_TD))
    return np.asarray((unit_SD.astype(np.float64) @ unit_TD.astype(np.float64).T).mean(axis=1))


def _correlations(found: MeasuredTransferability) -> dict[str, Any]:
    """Both coefficients, null where there are none, and then the reason."""
    why = {} if found.why_none is None else {"why_none": found.why_none}
    return {"pearson": dataclasses.asdict(found.pearson), "spearman": dataclasses.asdict(found.spearman), **why}


def _write(
    noun: Noun,
    config: TransferabilityConfig,
    drawn: tuple[NDArray[np.int64], NDArray[np.int64]],
    losses: tuple[Array, Array],
    found: tuple[MeasuredTransferability, MeasuredTransferability],
    size_K: NDArray[np.int64],
) -> None:
    (sources, targets), (alone_T, joint_ST), (whole, near) = drawn, losses, found
    rows: list[Row] = [
        {"cluster": int(i), "rows": int(size_K[i]), "targets": int(count), "T": t, "S": s, "S over targets": other}
        for i, count, t, s, other in zip(
            sources,
            whole.targets_S,
            whole.measured_S.tolist(),
            whole.proxy_S.tolist(),
            near.proxy_S.tolist(),
            strict=True,
        )
    ]
    pairs: list[Row] = [
        {"source": int(i), "target": int(j), "loss alone": alone, "loss joint": joint, "gain": alone - joint}
        for i, joint_T in zip(sources, joint_ST.tolist(), strict=True)
        for j, alone, joint in zip(targets, alone_T.tolist(), joint_T, strict=True)
    ]
    value = {
        "config": config.determining(),
        "correlation with S": _correlations(whole),
        "correlation with S over targets": _correlations(near),
        "sources": rows,
        "pairs": pairs,
    }
    noun.write_json("results.json", value, sort_keys=False)
    write_table(noun, "sources", rows)
    write_table(noun, "pairs", pairs)
    write_figures(noun, value)
