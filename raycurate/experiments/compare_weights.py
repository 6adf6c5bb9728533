"""``compare-weights``: trainings that differ in their task weights only, scored on the test set against STL.

    STL          one model per task, trained on that task's rows alone: the reference
    weightings   one model on the same rows of all tasks for each of EW, TLA, RLW, DWA, IGBv1 (weights that change while
                 it trains, `balancing/online.py`) and CoTBal (the weights of `balance`), and each seed
    weightings/<label>: scoreboard.md, .csv, .json with Delta% and E% against STL (`evaluation/relative.py`), lines.json

All lines train on the same rows; the seed is that of the training. STL's reference scores are the means over its seeds.
Every training is a trial with its result in a table (`probes.py`): what was killed goes on with the missing ones.

Cost: for each seed one training on all rows per weighting, and one more in parts, with as many models as tasks. A
single-task model answers the test rows of its own task only.
Limits: as many seeds as there are; with two, a standard deviation is a rough number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from raycurate.evaluation import Column, Result, Scoreboard, build_scoreboard, to_csv, to_json, to_markdown
from raycurate.experiments.engine.lines import columns_of, evaluation_on
from raycurate.experiments.engine.probes import Probe, ProbeResult, run_probes
from raycurate.experiments.engine.task_rows import mixture_config, part_of, task_sizes
from raycurate.experiments.engine.weights_config import COTBAL, CompareWeightsConfig
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import names_of
from raycurate.stages.table import version_of
from raycurate.training.weights import weights_of

STL = "STL"
NAMES = {"ew": "EW", "tla": "TLA", "rlw": "RLW", "dwa": "DWA", "igb": "IGBv1", COTBAL: "CoTBal"}
Key = tuple[str, int]


@in_session
def compare_weights(run: Run, config: CompareWeightsConfig) -> Manifest:
    """Run every training that has no result yet, and write the scoreboard.

    Raises:
        UserError: a wrong setting or weights that do not fit the tasks, before any training; or trainings that failed.
    """
    noun = run.noun("weightings", config.label)
    keep_table(noun, config, ("weightings", "seeds"))
    test = required(run.noun("samples", config.data))
    samples = required(run.noun("samples", config.samples))
    sizes = task_sizes(run, config)
    weights = _weights(run, config)
    if weights is not None:
        weights_of(tuple(sizes), weights, known=samples.metrics["tasks"])
    planned = _plan(config, weights, sizes, test.metrics["tasks"])
    inputs = {"samples": samples.fingerprint, "test": test.fingerprint}
    read = names_of([samples, test])
    description = {
        "stage": "compare-weights",
        "stage_version": version_of("compare-weights"),
        "inputs": inputs,
        "made_from": read,
    }
    begin(noun, description, replace=config.replace)
    probes = [probe for _, probe in planned]
    found = run_probes(run, noun, "probes", probes, max_concurrent=config.max_concurrent)
    lines: dict[Key, list[ProbeResult]] = {}
    for (key, _), result in zip(planned, found, strict=True):
        lines.setdefault(key, []).append(result)
    board = build_board(lines)
    noun.write_bytes("scoreboard.md", to_markdown(board).encode())
    noun.write_bytes("scoreboard.csv", to_csv(board).encode())
    noun.write_bytes("scoreboard.json", to_json(board).encode())
    noun.write_json(
        "lines.json", [{"method": m, "seed": s, "probes": list(map(asdict, r))} for (m, s), r in lines.items()]
    )
    return noun.finish(metrics={"lines": len(lines), "config": config.determining(), "notes": list(board.notes)})


def _weights(run: Run, config: CompareWeightsConfig) -> dict[str, float] | None:
    """The weights of the line 'cotbal'; None without that line."""
    if config.balance is None:
        return config.weights
    noun = run.noun("balance", config.balance)
    required(noun)
    found: dict[str, float] = (noun.read_json("weights.json") or {})["weights"]
    return found


def _plan(
    config: CompareWeightsConfig,
    weights: Mapping[str, float] | None,
    sizes: Mapping[str, int],
    tested: Mapping[str, int],
) -> list[tuple[Key, Probe]]:
    """Every training with its line; the long ones first."""
    rows = part_of(sizes, config.part)
    evaluation = evaluation_on(config.evaluate, config.data)
    planned = []
    for seed in config.seeds:
        given = {"seed": seed, "rows_seed": config.rows_seed}
        for name in config.weightings:
            weighting = {"weights": weights} if name == COTBAL else {"weighting": name}
            trained = mixture_config(config, rows, **given, **weighting)
            probe = Probe(name=f"{NAMES[name]} seed {seed}", finetune=trained, evaluate=evaluation)
            planned.append(((NAMES[name], seed), probe))
    for seed in config.seeds:
        for task in sorted(set(sizes) & set(tested), key=lambda task: (-rows[task], task)):
            own = evaluation if "command" in evaluation else {**evaluation, "tasks": [task]}
            trained = mixture_config(config, {task: rows[task]}, seed=seed, rows_seed=config.rows_seed)
            planned.append(((STL, seed), Probe(name=f"{task} alone seed {seed}", finetune=trained, evaluate=own)))
    return planned


def build_board(lines: Mapping[Key, Sequence[ProbeResult]]) -> Scoreboard:
    """The scoreboard; STL first, its scores each from the model of that task."""
    ordered = sorted(lines.items(), key=lambda line: line[0][0] != STL)
    columns = columns_of(probe.headlines for _, own in ordered for probe in own)
    results = [
        Result(
            method=method,
            seed=seed,
            scores={c.key: s for c in columns if (s := _score(own, c)) is not None},
            wall_seconds=sum(probe.training_seconds for probe in own),
        )
        for (method, seed), own in ordered
    ]
    return build_scoreboard(columns, results, base=STL)


def _score(results: Sequence[ProbeResult], column: Column) -> float | None:
    return next((v for r in results if (v := r.scores.get(column.task, {}).get(column.metric)) is not None), None)
