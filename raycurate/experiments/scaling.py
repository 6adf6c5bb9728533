"""``scaling``: does more data help? Trainings on nested random subsets of growing size, all scored alike.

    subset(n) = n random rows, every task in proportion (`subsets.py`), subset(n) within subset(n') for n < n'
    stage pretrain: the projector alone is trained, as LLaVA's first stage; finetune: what `finetune.method` says

The score is the mean of the benchmarks on 0 to 100. Each seed draws its own subsets and trains with its own order, so
the deviation over seeds holds both. The seed study of arXiv 2405.11850 (Fig. 2) found its curve about flat from 1M to
100M pairs; its setting, 7 subsets and several decoders, is a matter of `sizes` and `--model` here.

Cost: sizes * seeds trainings, by one epoch on size rows each. Limits: with `epochs` fixed more rows are more steps; to
hold the steps fix `finetune.max_steps`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from raycurate.experiments.engine.benchmarks import benchmarks_of
from raycurate.experiments.engine.figures import write_figures
from raycurate.experiments.engine.lines import evaluation_on
from raycurate.experiments.engine.measuring_config import ScalingConfig
from raycurate.experiments.engine.probes import Probe, run_probes
from raycurate.experiments.engine.results import Row
from raycurate.experiments.engine.subsets import proportional_rows, trainable_rows
from raycurate.experiments.engine.tables import to_markdown, write_table
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import names_of
from raycurate.stages.table import version_of
from raycurate.training.config import FinetuneConfig


@in_session
def measure_scaling(run: Run, config: ScalingConfig) -> Manifest:
    """Run every training that has no result yet; write `trainings.csv`, `scaling.csv`, the report and the figure.

    Raises:
        UserError: more rows than there are, a wrong setting, or trainings that failed.
    """
    noun = run.noun("scaling", config.label)
    samples = required(run.noun("samples", config.samples))
    inputs = {"samples": samples.fingerprint}
    read = names_of([samples])
    description = {
        "stage": "scaling",
        "stage_version": version_of("scaling"),
        "inputs": inputs,
        "made_from": read,
    }
    available = trainable_rows(run, config.settings, config.samples)
    probes = [_probe(config, available, size, seed) for size in config.sizes for seed in config.seeds]
    keep_table(noun, config, ("sizes", "seeds"))
    begin(noun, description, replace=config.replace)
    results = run_probes(run, noun, "trained", probes, max_concurrent=config.max_concurrent)
    rows: list[Row] = []
    for (size, seed), result in zip(((n, s) for n in config.sizes for s in config.seeds), results, strict=True):
        scores = benchmarks_of(result, config.best_values)
        score = statistics.fmean(scores.values())
        row: Row = {"size": size, "seed": seed, "steps": result.steps, "loss": result.loss, "score": score, **scores}
        rows.append(row)
    _write(noun, config, rows)
    return noun.finish(metrics={"trainings": len(rows), "config": config.determining()})


def _probe(config: ScalingConfig, available: dict[str, int], size: int, seed: int) -> Probe:
    part = {"samples": config.samples, "rows": proportional_rows(available, size)}
    own = {"mixture": [part], "mixture_seed": seed, "seed": seed}
    finetune = make_config(FinetuneConfig, {**config.settings, **own}, "finetune")
    return Probe(name=f"{size} {seed}", finetune=finetune, evaluate=evaluation_on(config.evaluate, config.data))


def summarize(rows: Sequence[Row]) -> list[Row]:
    """One row per size: mean and deviation of the score over seeds, and the gain over the size before."""
    found: list[Row] = []
    for size in dict.fromkeys(row["size"] for row in rows):
        scores = [row["score"] for row in rows if row["size"] == size]
        mean = statistics.fmean(scores)
        sd = statistics.stdev(scores) if len(scores) > 1 else None
        gain = mean - found[-1]["score"] if found else None
        line: Row = {"size": size, "seeds": len(scores), "score": mean, "sd": sd, "gain": gain}
        found.append(line)
    return found


def _write(noun: Noun, config: ScalingConfig, rows: Sequence[Row]) -> None:
    sizes = summarize(rows)
    value = {"config": config.determining(), "sizes": sizes, "trainings": list(rows)}
    noun.write_json("results.json", value, sort_keys=False)
    write_table(noun, "trainings", rows)
    write_table(noun, "scaling", sizes)
    title = f"# Score by rows, {config.stage}\n\nMean of the benchmarks on 0 to 100; sd over seeds.\n\n"
    noun.write_bytes("report.md", (title + to_markdown(sizes)).encode())
    write_figures(noun, value)
