"""Soups: the models of candidate datasets averaged weight by weight (POINTS, arXiv 2409.04828, section on datasets).

    average   the mean of all models
    maximum   the mean of the `top` models with the highest scores
    greedy    models by falling score; each joins if score(mean of P and it) >= score(mean of P), the first always

All models come from one start and one recipe and differ in the dataset that was added to the baseline. The mean is
taken in float32, one tensor after the other, and cast back to the model's own type. The rows that choose the soup
choose its members too: report its score on others.

Cost: one pass over the answers for each soup that is tried, at most models + 2; memory one model and one tensor. Each
soup is a trial of the experiment's results table, and none is made twice. Limits: whole models only. LoRA adapters must
be merged (`finetune.merge`), as the mean of products is not the product of means.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.fs as pafs
import torch
from safetensors import safe_open
from safetensors.torch import save as save_bytes

from raycurate.errors import UserError
from raycurate.evaluation.config import EvaluateConfig
from raycurate.experiments.engine.benchmarks import benchmarks_of
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.experiments.engine.lines import evaluation_on, score_model
from raycurate.experiments.engine.probes import ProbeResult
from raycurate.experiments.engine.results import Row
from raycurate.experiments.engine.trials import run_trials
from raycurate.models.source import image_backend
from raycurate.ray_session import cluster_gpus
from raycurate.run.filesystem import list_files
from raycurate.run.manifest import fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.engine.checkpoints import base_of, find_checkpoint, local_source
from raycurate.stages.engine.lineage import required
from raycurate.stages.evaluate import outside_inputs
from raycurate.stages.table import version_of


def make_soups(
    run: Run, noun: Noun, config: IndividualSelectConfig, models: Mapping[str, str], scores: Mapping[str, float]
) -> list[Row]:
    """One row for each kind of soup that is asked for, with its members and mean score.

    Args:
        run: holds the models.
        noun: holds the results table.
        config: of the experiment.
        models: dataset -> label of its model.
        scores: dataset -> mean of the benchmarks.

    Raises:
        UserError: models that cannot be averaged.
    """
    ranked = sorted(models, key=lambda name: (-scores[name], name))

    def tried(members: Sequence[str]) -> float:
        return _score(run, noun, config, {name: models[name] for name in members})

    rows: list[Row] = []
    for kind in config.soup:
        members = {"average": ranked, "maximum": ranked[: config.soup_top]}.get(kind) or _greedy(ranked, tried)
        score = tried(members)
        best = max(scores[name] for name in members)
        rows.append({"soup": kind, "members": " ".join(members), "score": score, "best_member": best})
    return rows


def _greedy(ranked: Sequence[str], tried: Any) -> list[str]:
    kept, best = [ranked[0]], tried(ranked[:1])
    for name in ranked[1:]:
        found = tried([*kept, name])
        if found >= best:
            kept, best = [*kept, name], found
    return kept


def _score(run: Run, noun: Noun, config: IndividualSelectConfig, models: Mapping[str, str]) -> float:
    """The mean benchmark of the average of some models, from the table or made now."""
    labels = sorted(models.values())
    given = evaluation_on(config.evaluate, config.data)
    inputs = [run.noun("models", label).require("finetune").fingerprint for label in labels]
    data = required(run.noun("samples", config.data)).fingerprint if "data" in given else None
    versions = [version_of(stage) for stage in ("soup", "predict", "evaluate")]
    outside = {"image_backend": image_backend(), **outside_inputs(given)}
    read = {"models": inputs, "data": data, "outside": outside}
    key = fingerprint_of({"version": versions, "evaluate": given, **read})[:16]

    def work(_: str) -> dict[str, Any]:
        label = f"soup-{key}"
        average(run, labels, label)
        asked = make_config(EvaluateConfig, {**given, "model": f"models/{label}", "label": label}, "evaluate")
        scored = score_model(run, asked, in_process=True)
        for name in ("predictions", "scores", "models"):
            run.noun(name, label).clear()
        return {"scores": scored.scores, "headlines": scored.headlines}

    (found,) = run_trials(noun, "soups", [key], work, cpus=1.0, gpus=float(cluster_gpus() > 0))
    result = ProbeResult(label=key, rows=0, steps=0, loss=0.0, **found)
    return statistics.fmean(benchmarks_of(result, config.best_values).values())


def average(run: Run, labels: Sequence[str], label: str) -> None:
    """Write `models/label`: the mean of the weights of several models of a run, in the format of transformers.

    Raises:
        UserError: adapters, or models whose tensors differ in name or shape.
    """
    folders = []
    for each in labels:
        checkpoint = find_checkpoint(run, f"models/{each}")
        folder = local_source(checkpoint)
        if base_of(checkpoint, folder) is not None:
            raise UserError("a soup needs whole models: --set finetune.method=full, or --set finetune.merge=true")
        folders.append(folder)
    noun = run.noun("models", label)
    model = run.noun("models", labels[0]).require("finetune").description["config"]["model"]
    description = {"stage": "soup", "stage_version": version_of("soup"), "config": {"model": model}}
    noun.begin({**description, "inputs": list(labels)})
    local = pafs.LocalFileSystem()
    for info in list_files(local, folders[0]):
        name = info.base_name
        if name.endswith(".safetensors"):
            noun.write_bytes(f"final/{name}", _mean_file([f"{folder}/{name}" for folder in folders]))
        else:
            with local.open_input_stream(info.path) as source:
                noun.write_bytes(f"final/{name}", source.read())
    noun.finish()


def _mean_file(paths: Sequence[str]) -> bytes:
    """The bytes of one weights file, each tensor the float32 mean of the files' tensors of that name."""
    files = [safe_open(path, framework="pt") for path in paths]
    names = sorted(files[0].keys())
    if any(sorted(file.keys()) != names for file in files):
        raise UserError("models of a soup have different weights; they must come from one model by one recipe")
    made = {}
    for name in names:
        first = files[0].get_tensor(name)
        total = torch.zeros_like(first, dtype=torch.float32)
        for file in files:
            total += file.get_tensor(name).float()
        made[name] = (total / len(files)).to(first.dtype) if first.is_floating_point() else first
    return save_bytes(made, metadata={"format": "pt"})
