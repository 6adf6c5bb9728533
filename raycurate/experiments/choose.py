"""``choose``: which method deserves the budget? Small trainings with each, and a gate that wants proof.

    m rows = min(budget, 5 % of all rows), or a number that is given
    champion 'balanced' and its challengers x seeds:  select m rows --> finetune --> answer the validation rows
    per challenger: difference to the champion, question by question   (`evaluation/paired.py`)
    gate: Holm over the challengers; the champion stays where none is proven better   (`evaluation/gate.py`)
    choices/<label>: choice.json, evidence.json, report.md;  sweeps/choose-<label>: the trainings, as a sweep has them

All trainings have the same model, settings, rows and so steps; they differ in which rows these are. `select --method
auto` follows choice.json. A task on which no method is above chance tells methods apart by luck alone, and one of fewer
than 10 images gives no error: neither counts; both rules look at all methods alike. Validation rows must not be rows
that a method can train on: they are told, and `decontaminate` marks them.

Cost: (1 + challengers) x seeds trainings on m rows, and their answers. The log says what they will take, by formula
before the first one and by what it took after it. A choice that was killed trains what is missing only.

Limits: what holds at m rows need not hold at the budget, and a gain below what `resolves` says is not found. More
validation rows help more than more seeds do. Seeds that are added because the first ones did not suffice are a second
chance for a method that is no better: decide on their number before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from raycurate.evaluation import Column, to_markdown
from raycurate.evaluation.chance import Chance
from raycurate.evaluation.evidence import (
    Answers,
    Evidence,
    evidence_markdown,
    evidence_record,
    tasks_at_chance,
    tasks_of_few_images,
    weigh,
)
from raycurate.evaluation.gate import Choice, choice_record, choose_method
from raycurate.experiments.engine.choose_config import CHAMPION, ChooseConfig
from raycurate.experiments.engine.results import Sweep, scoreboard
from raycurate.experiments.engine.validation import check_validation
from raycurate.experiments.sweep import finish_sweep, run_sweep, sweep_answers
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.samples.quarantine import printable
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import describe
from raycurate.stages.selecting.auto import FILE, NOUN

log = logging.getLogger("raycurate")
TASK_CHARS = 80
"""Of a task's name in a line of the report."""
SETTINGS_OF_TRIAL = ("ratio", "seed", "label", "samples", "replace")
"""Fields of a trial's selection that a choice leaves to the user."""


@in_session
def choose(run: Run, config: ChooseConfig) -> Manifest:
    """Train what is not trained yet, and write what the gate takes and why.

    Raises:
        UserError: no validation set, an unknown method, a wrong setting, or trainings that failed.
    """
    noun = run.noun(NOUN, config.label)
    keep_table(noun, config, ("methods", "seeds"))
    samples = required(run.noun("samples", config.samples))
    validation = required(run.noun("samples", config.data))
    check_validation(run, config, samples, validation)
    swept_noun, swept = _train(run, config, samples.rows_out)
    answers = sweep_answers(swept_noun, swept)
    groups = {outcome.trial.method: outcome.trial.group for outcome in swept.outcomes}
    at_chance = _learned_by_none(answers, swept.columns, list(groups.values()))
    left_out = tasks_of_few_images(answers, swept.columns, groups[CHAMPION])
    left_out |= {task: f"no method is above chance: {why}" for task, why in at_chance.items()}
    board = scoreboard(swept, left_out)
    assert board is not None, "all trials were trained"
    against = {groups[method]: groups[CHAMPION] for method in config.contestants if method != CHAMPION}
    found = weigh(answers, board, against, left_out)
    choice = choose_method(CHAMPION, {m: found.differences[g] for m, g in groups.items() if g in against}, config.level)
    manifest = finish_sweep(swept_noun, swept)
    read = [samples, validation, manifest]
    inputs = {each.noun + "/" + each.label: each.fingerprint for each in read}
    begin(noun, describe("choose", config, inputs, read), replace=True)  # looked at before
    rows = config.proxy_rows(samples.rows_out)
    record = {**choice_record(choice), "select": _settings_of(swept, choice.method), "rows": rows}
    record |= {"seeds": list(config.seeds), "questions": validation.rows_out}
    noun.write_json(FILE, record, sort_keys=False)
    noun.write_json("evidence.json", evidence_record(found, at_chance))
    noun.write_bytes("report.md", _report(choice, found, left_out, to_markdown(board), rows, config).encode())
    return noun.finish(metrics={"method": choice.method, "why": choice.why, "config": config.determining()})


def _train(run: Run, config: ChooseConfig, num_rows: int) -> tuple[Noun, Sweep]:
    """All trainings; before the first, and after it, a line says what they will take (`engine/cost.py`)."""
    rows, trainings = config.proxy_rows(num_rows), len(config.contestants) * len(config.seeds)
    log.info("choose: %d trainings of %s rows: %s", trainings, f"{rows:,}", " ".join(config.contestants))
    return run_sweep(run, config.as_sweep(num_rows, config.seeds))


def _learned_by_none(answers: Answers, columns: Sequence[Column], groups: Sequence[str]) -> dict[str, Chance]:
    """The tasks on which no method is above chance, with the figures of the first method."""
    each = [tasks_at_chance(answers, columns, group) for group in groups]
    return {task: chance for task, chance in each[0].items() if all(task in other for other in each)}


def _settings_of(swept: Sweep, method: str) -> dict[str, Any]:
    """The settings of `select` that a method was measured with, as far as they are not the defaults."""
    trial = next(outcome.trial for outcome in swept.outcomes if outcome.trial.method == method)
    values = trial.select_config.model_dump(mode="json", exclude_defaults=True)
    return {"method": trial.select_config.method} | {k: v for k, v in values.items() if k not in SETTINGS_OF_TRIAL}


def _report(
    choice: Choice, found: Evidence, left_out: Mapping[str, str], board: str, rows: int, config: ChooseConfig
) -> str:
    lines = [
        f"# {choice.method}: {choice.why}",
        "",
        f"{len(config.contestants)} methods, {len(config.seeds)} seeds, {rows:,} rows a training. A challenger of "
        f"'{choice.champion}' is taken if it is proven better at a level of {choice.level:g} (Holm).",
        "",
        *(f"- {name}: {verdict.why}" for name, verdict in choice.verdicts.items()),
        *(f"- {printable(task, TASK_CHARS)} does not count: {why}" for task, why in left_out.items()),
        "",
        evidence_markdown(found),
        board,
    ]
    return "\n".join(lines)
