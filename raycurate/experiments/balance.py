"""``balance RUN``: probe trainings --> score table --> one weight per task (CoTBal, arXiv 2403.04343).

    rows of task i:   mini_i = first `mini` of the hash order, large_i = first `large` of it      so mini_i < large_i
    probe `mini`    : mini sets of all tasks
    probe i         : large_i + mini sets of all other tasks          one per task, or per group of tasks
    precise         : also `mini:i` (mini_i alone) and `alone:i` (large_i alone)
    form chat       : `base` (the model as it is), i (large_i alone), `mini:i`
    scores of all probes on the validation set --balancing/cotbal.py--> weights

    balance/<label>: scores.csv, probes.csv, weights.json, contributions.csv, difficulties.csv, figures/

All probes share one order of rows, so the mini sets are the same rows everywhere. A task of fixed weight has no probe
of its own; its mini set is in the others'. `scores.csv` is what `balance --scores` reads: another temperature or other
shares need no training.

The validation set must have no row of the test set, or the test would choose the weights that it then measures:
`ingest --set hash_range=[0,0.5]` and `[0.5,1]` make two sets of one source without a common image.

Cost: (large + (N - 1) mini + mini) of all rows, trained in N + 1 probes, and N + 1 times the validation set answered.
Every probe is a trial with its result in a table (`probes.py`): what was killed goes on with the missing ones.
Limits: single trainings, so a weight has their noise; see `concerns`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycurate.balancing import Balance, parse_scores, record
from raycurate.balancing import balance as arithmetic
from raycurate.balancing.probes import unmeasured_tasks
from raycurate.balancing.scores import ALONE_OF, BASE, MINI, MINI_OF, Groups, check_names
from raycurate.errors import UserError, unknown_name
from raycurate.evaluation.config import EvaluateConfig
from raycurate.experiments.engine.figures import write_figures
from raycurate.experiments.engine.lines import evaluation_on
from raycurate.experiments.engine.probes import Probe, ProbeResult, run_probes
from raycurate.experiments.engine.results import to_csv
from raycurate.experiments.engine.task_rows import check_metrics, mixture_config, part_of, scores_of, task_sizes
from raycurate.experiments.engine.weights_config import BalanceProbesConfig
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import names_of
from raycurate.stages.evaluate import SCORES_FILE, evaluate
from raycurate.stages.table import version_of

FEW_STEPS = 100
Rows = Mapping[str, int]
log = logging.getLogger("raycurate")


@in_session
def balance(run: Run, config: BalanceProbesConfig) -> Manifest:
    """Run the probes that have no result yet, and write the tables, weights and figures.

    Raises:
        UserError: a wrong setting, before any training; probes that failed; or a task without a ratio of scores.
    """
    noun = run.noun("balance", config.label)
    keep_table(noun, config)
    check_metrics(run, config, config.validation)
    sizes = task_sizes(run, config)
    check_names("task", tuple(sizes), f"samples/{config.samples}")
    groups = _groups(config, sizes)
    planned = plan_probes(sizes, config, groups)
    begin(noun, _description(run, config), replace=config.replace)
    evaluation = evaluation_on(config.evaluate, config.validation)
    probes = [
        Probe(
            name=name,
            finetune=mixture_config(config, rows, seed=config.seed, rows_seed=config.seed),
            evaluate=evaluation,
        )
        for name, rows in planned.items()
    ]
    done = _tell_unscored(config, groups)
    found = run_probes(run, noun, "probes", probes, max_concurrent=config.max_concurrent, done=done)
    results = dict(zip(planned, found, strict=True))
    scores = {name: scores_of(each.scores, each.headlines, config.scores) for name, each in results.items()}
    if config.form == "chat":
        scores = {BASE: _score_base(run, config, evaluation), **scores}
    text = score_csv(tuple(sizes), scores)
    noun.write_bytes("scores.csv", text.encode())
    noun.write_bytes("probes.csv", _probes_csv(results).encode())
    return weigh_scores(noun, config, groups, text, _notes(config, results))


def _tell_unscored(config: BalanceProbesConfig, groups: Groups) -> Callable[[Probe, ProbeResult], None] | None:
    """What warns of a task that its own probe scores 0, long before all probes have run and there are no weights."""
    if config.fixed_unscored is not None or "command" in config.evaluate:
        return None

    def tell(probe: Probe, result: ProbeResult) -> None:
        scores = scores_of(result.scores, result.headlines, config.scores)
        for task in groups.get(probe.name, ()):
            if task not in config.fixed and task in scores and scores[task] <= 0:
                log.warning(
                    "balance: '%s' scores 0 after training on it: without a weight of its own (--fixed '%s=1', "
                    "--fixed-unscored 1) there will be no weights; finished probes are kept",
                    *(task, task),
                )

    return tell


def _groups(config: BalanceProbesConfig, sizes: Rows) -> Groups:
    """The units that are balanced: the groups, or every task by itself; checked against the tasks that there are."""
    for task in (*config.fixed, *config.scores):
        if task not in sizes:
            raise unknown_name(f"task of samples/{config.samples}", task, sizes)
    if config.groups is None:
        return {task: (task,) for task in sizes}
    grouped = {task for tasks in config.groups.values() for task in tasks}
    for task in grouped:
        if task not in sizes:
            raise unknown_name(f"task in the groups, of samples/{config.samples}", task, sizes)
    if missing := [task for task in sizes if task not in grouped]:
        raise UserError(f"the groups name no group for {', '.join(missing)}; every task of the samples needs one")
    return config.groups


def plan_probes(sizes: Rows, config: BalanceProbesConfig, groups: Groups) -> dict[str, dict[str, int]]:
    """The rows of each task in each probe that is trained, the probes in the order of the score table.

    Args:
        sizes: rows of each task.
        config: with `mini`, `large`, `form`, `difficulty` and `fixed`.
        groups: unit -> its tasks.
    """
    minis, larges = part_of(sizes, config.mini), part_of(sizes, config.large)
    members = {unit: [task for task in tasks if task not in config.fixed] for unit, tasks in groups.items()}
    members = {unit: tasks for unit, tasks in members.items() if tasks}
    mini_alone = {f"{MINI_OF}{unit}": {task: minis[task] for task in own} for unit, own in members.items()}
    large_alone = {unit: {task: larges[task] for task in own} for unit, own in members.items()}
    if config.form == "chat":
        return {**large_alone, **mini_alone}
    planned = {MINI: minis, **{unit: {**minis, **own} for unit, own in large_alone.items()}}
    if config.difficulty == "precise":
        planned |= {**mini_alone, **{f"{ALONE_OF}{unit}": own for unit, own in large_alone.items()}}
    return planned


def _description(run: Run, config: BalanceProbesConfig) -> dict[str, Any]:
    """What all results depend on: not the probes, so that a change of settings keeps those that it does not touch."""
    labels = (config.samples, config.validation)
    read = [required(run.noun("samples", label)) for label in labels]
    inputs = {manifest.label: manifest.fingerprint for manifest in read}
    return {"stage": "balance", "stage_version": version_of("balance"), "inputs": inputs, "made_from": names_of(read)}


def _score_base(run: Run, config: BalanceProbesConfig, evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The scores of the model before finetuning."""
    label = f"balance-{config.label}-base"
    model = config.finetune.get("model", "tiny")
    scored = evaluate(
        run, make_config(EvaluateConfig, {**evaluation, "model": model, "label": label, "replace": True}, "evaluate")
    )
    return scores_of(run.noun("scores", label).read_json(SCORES_FILE) or {}, scored.metrics["headlines"], config.scores)


def _notes(config: BalanceProbesConfig, results: Mapping[str, ProbeResult]) -> list[str]:
    """What a reader should know of the probes."""
    shortest = min(results.values(), key=lambda result: result.steps)
    if shortest.steps >= FEW_STEPS:
        return []
    return [
        f"the shortest probe has {shortest.steps} optimizer steps on {shortest.rows:,} rows; the paper advises more "
        f"than {FEW_STEPS}: more mini rows (mini {config.mini:g}), or fewer rows in a step (finetune.batch_rows)"
    ]


def weigh_scores(noun: Noun, config: BalanceProbesConfig, groups: Groups, text: str, notes: Sequence[str]) -> Manifest:
    """From the score table to everything that is made of it."""
    where = noun.uri_of("scores.csv")
    table = parse_scores(text, where)
    given = None if config.groups is None else groups
    unscored = unmeasured_tasks(table, config, given)
    weighed = [task for task in table.tasks if task not in unscored and task not in config.fixed]
    if unscored and len(weighed) < 2:
        raise UserError(_nothing_to_weigh(unscored, weighed, notes, where))
    full = _fix_unscored(config, unscored, where)
    result = arithmetic(table, full, given)
    made = record(result, full, path=where, data=text.encode(), groups=given)
    told = [f"'{task}' {why}: left out, with the weight {full.fixed[task]:g}" for task, why in unscored.items()]
    for line in (*notes, *told):
        log.warning("balance: %s", line)
    noun.write_json("weights.json", {**made, "unscored": unscored, "notes": [*notes, *told]})
    noun.write_bytes("contributions.csv", contributions_csv(result).encode())
    noun.write_bytes(
        "difficulties.csv", to_csv([{"unit": u, **numbers} for u, numbers in made["units"].items()]).encode()
    )
    write_figures(noun, made)
    return noun.finish(metrics={"lines": len(table.probes), "config": config.determining()})


def _nothing_to_weigh(unscored: Mapping[str, str], weighed: Sequence[str], notes: Sequence[str], where: str) -> str:
    """Why there are no weights though all probes have run."""
    reasons: dict[str, list[str]] = {}
    for task, why in unscored.items():
        reasons.setdefault(why, []).append(task)
    told = "; ".join(f"{', '.join(tasks)}: {why}" for why, tasks in reasons.items())
    rest = f"only '{weighed[0]}' has" if weighed else "no task has"
    more = "".join(f". Note: {note}" for note in notes)
    return (
        f"the probes have run, but {rest} scores that a weight can be made of ({told}). A model that gets next to "
        "nothing right gives no weights: train longer (finetune.epochs, finetune.learning_rate, --mini, --large), take "
        f"a better model, or metrics that count part of an answer (evaluate.metrics){more}. Finished probes are kept; "
        f"scores: {where}"
    )


def _fix_unscored(config: BalanceProbesConfig, unscored: Mapping[str, str], where: str) -> BalanceProbesConfig:
    """The settings with a fixed weight for tasks that no ratio of scores can be made for."""
    if not unscored:
        return config
    if config.fixed_unscored is None:
        told = "; ".join(f"'{task}' {why}" for task, why in unscored.items())
        example = " ".join(f"--fixed '{task}=1'" for task in unscored)
        raise UserError(
            f"no ratio of scores: {told}. Leave out these tasks with a weight of their own ({example}) or all "
            f"such tasks (--fixed-unscored 1), or probe with more rows; finished probes are kept. Scores: {where}"
        )
    return config.model_copy(update={"fixed": {**config.fixed, **dict.fromkeys(unscored, config.fixed_unscored)}})


def score_csv(tasks: Sequence[str], scores: Mapping[str, Mapping[str, float]]) -> str:
    """The score table that `balancing/scores.py` reads; a score that was not taken is an empty cell."""
    return to_csv([{"probe": name, **{task: own.get(task, "") for task in tasks}} for name, own in scores.items()])


def contributions_csv(result: Balance) -> str:
    """C: a row per unit that gives, a column per unit that takes."""
    lines = zip(result.units, result.contribution_NN.tolist(), strict=True)
    return to_csv([{"from": unit, **dict(zip(result.units, row, strict=True))} for unit, row in lines])


def _probes_csv(results: Mapping[str, ProbeResult]) -> str:
    """What each probe was trained on and what it took."""
    names = ("rows", "steps", "loss", "training_seconds", "evaluation_seconds")
    return to_csv([{"probe": probe, **{n: getattr(each, n) for n in names}} for probe, each in results.items()])
