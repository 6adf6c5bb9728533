"""``compare``: methods x seeds, each selected, finetuned and evaluated alike, on one scoreboard.

    for method, seed:  select --> finetune --> evaluate         every step is skipped or resumed by its own manifest
    scoreboard/<label>: scoreboard.md, .csv, .json, evidence.json, lines.json

'full' is a finetune on all rows, once per seed: the reference of Rel.% and of the cost share. The lines differ in what
they are trained on and in nothing else: same model, settings, test rows.

What a method needs beforehand (features, clusters, ranking, scores) is charged to every one of its lines whole, as if
that line had been made alone, although the run makes it once. Evaluation is not part of a line's cost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from raycurate.config import SelectConfig
from raycurate.evaluation import Column, Result, Scoreboard, build_scoreboard, to_csv, to_json, to_markdown
from raycurate.evaluation.config import FULL, CompareConfig, EvaluateConfig, settings_of_line
from raycurate.evaluation.evidence import (
    Answers,
    evidence_markdown,
    evidence_record,
    reasons_of,
    tasks_at_chance,
    weigh,
    yardstick_of,
)
from raycurate.experiments.engine.lines import (
    columns_of,
    evaluation_on,
    make_line,
    needs_of,
    scores_on,
    seconds_of,
    training_seconds,
)
from raycurate.ray_session import in_session
from raycurate.run.manifest import Manifest
from raycurate.run.names import as_label
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.engine.answers import ANSWER_COLUMNS, answer_rows
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import describe
from raycurate.stages.select import select
from raycurate.training.config import FinetuneConfig

log = logging.getLogger("raycurate")


@dataclass(frozen=True, kw_only=True, slots=True)
class LineRecord:
    """What one line was and what it took, as `lines.json` has it.

    Attributes:
        kept: rows that it was trained on.
        selection_seconds: wall clock by stage, empty for 'full'.
        training_seconds: tokenisation and finetune.
        evaluation_seconds: generation, not part of the cost.
        scores: task -> name -> number.
        headlines: task -> metric -> whether higher is better.
    """

    method: str
    seed: int
    label: str
    kept: int
    steps: int
    selection_seconds: Mapping[str, float]
    training_seconds: float
    evaluation_seconds: float
    scores: Mapping[str, Mapping[str, float]]
    headlines: Mapping[str, Mapping[str, bool]]

    @property
    def seconds(self) -> float:
        """Wall clock of selection and training."""
        return sum(self.selection_seconds.values()) + self.training_seconds


@in_session
def compare(run: Run, config: CompareConfig) -> Manifest:
    """Make every line that is not made yet, and write the scoreboard.

    Raises:
        UserError: an unknown method or setting, or a method whose clusters are not there; before any training.
    """
    noun = run.noun("scoreboard", config.label)
    keep_table(noun, config, ("methods", "seeds"))
    needs = {method: _needs(run, config, method) for method in config.methods}
    required(run.noun("samples", config.data))
    for method in config.methods:  # a wrong setting is found before the first line is trained
        _finetune_config(config, method, config.seeds[0])
        _evaluate_config(config, method, config.seeds[0])
    lines, scored = [], []
    for seed in config.seeds:
        for method in config.methods:
            line, scores = _line(run, config, method, seed, needs[method])
            lines.append(line)
            scored.append(scores)
    lines.sort(key=lambda line: (config.methods.index(line.method), config.seeds.index(line.seed)))
    columns = columns_of(line.headlines for line in lines)
    answers = _answers(run, lines, columns)
    at_chance = tasks_at_chance(answers, columns, FULL)
    board = _board(config, lines, columns, reasons_of(at_chance, FULL))
    found = weigh(answers, board, _yardsticks(config), at_chance)
    inputs = {"scores": {scores.label: scores.fingerprint for scores in scored}}
    begin(noun, describe("compare", config, inputs, scored), replace=True)  # looked at before
    parts = (to_markdown(board), evidence_markdown(found), cost_table(lines))
    noun.write_bytes("scoreboard.md", ("\n".join(filter(None, parts)) + "\n").encode())
    noun.write_json("evidence.json", evidence_record(found, at_chance))
    noun.write_bytes("scoreboard.csv", to_csv(board).encode())
    noun.write_bytes("scoreboard.json", to_json(board).encode())
    noun.write_json("lines.json", [asdict(line) for line in lines])
    return noun.finish(metrics={"lines": len(lines), "notes": list(board.notes), "config": config.determining()})


def line_label(config: CompareConfig, method: str, seed: int) -> str:
    """The label of a line's selection, model and scores."""
    name = f"{as_label(method)}-s{seed}"
    return name if config.label == "main" else f"{config.label}-{name}"


def _needs(run: Run, config: CompareConfig, method: str) -> list[Noun]:
    """What a method reads beside the samples, in the order that it is made."""
    return [] if method == FULL else needs_of(run, make_config(SelectConfig, _select_settings(config, method)))


def _select_settings(config: CompareConfig, method: str) -> dict[str, Any]:
    return {
        "clusters": config.clusters,
        **settings_of_line(method, config.options, config.variants),
        "ratio": config.ratio,
        "samples": config.samples,
    }


def _finetune_config(config: CompareConfig, method: str, seed: int) -> FinetuneConfig:
    selection = None if method == FULL else line_label(config, method, seed)
    own: dict[str, Any] = {
        "samples": config.samples,
        "selection": selection,
        "seed": seed,
        "label": line_label(config, method, seed),
    }
    own["replace"] = config.replace
    return make_config(FinetuneConfig, {**config.finetune, **own}, "finetune")


def _evaluate_config(config: CompareConfig, method: str, seed: int) -> EvaluateConfig:
    label = line_label(config, method, seed)
    own: dict[str, Any] = {"model": f"models/{label}", "label": label, "replace": config.replace}
    if config.max_test_rows is not None:
        own["max_rows"] = config.max_test_rows
    return make_config(EvaluateConfig, {**evaluation_on(config.evaluate, config.data), **own}, "evaluate")


def _line(
    run: Run, config: CompareConfig, method: str, seed: int, needs: Sequence[Noun]
) -> tuple[LineRecord, Manifest]:
    """Select, finetune, evaluate; finished steps cost nothing."""
    label = line_label(config, method, seed)
    selection_seconds: dict[str, float] = {}
    if method != FULL:
        log.info("compare: %s: select", label)
        settings = {**_select_settings(config, method), "seed": seed, "label": label}
        selected = select(run, make_config(SelectConfig, settings, "select"))
        selection_seconds = {**seconds_of(needs), "selection": selected.seconds}
    log.info("compare: %s: train and score", label)
    trained, scored = make_line(run, _finetune_config(config, method, seed), _evaluate_config(config, method, seed))
    assert scored.manifest is not None, "every line is scored"
    record = LineRecord(
        method=method,
        seed=seed,
        label=label,
        kept=trained.rows_out,
        steps=int(trained.metrics["steps"]),
        selection_seconds=selection_seconds,
        training_seconds=training_seconds(run, trained),
        evaluation_seconds=scored.seconds,
        scores=scored.scores,
        headlines=scored.headlines,
    )
    return record, scored.manifest


def _yardsticks(config: CompareConfig) -> dict[str, str]:
    """Every method -> the draw that it is compared with."""
    yardstick = yardstick_of(config.methods)
    return {} if yardstick is None else {m: yardstick for m in config.methods if m not in (FULL, yardstick)}


def _answers(run: Run, lines: Sequence[LineRecord], columns: Sequence[Column]) -> Answers:
    """What every line answered, question by question; nothing of an external evaluator."""
    found = Answers()
    for line in lines:
        parts = run.noun("scores", line.label).iter_parts(ANSWER_COLUMNS)
        found.add(line.method, line.seed, answer_rows(parts), columns)
    return found


def _board(
    config: CompareConfig, lines: Sequence[LineRecord], columns: Sequence[Column], left_out: Mapping[str, str]
) -> Scoreboard:
    price = config.price_per_hour
    results = [
        Result(
            method=line.method,
            seed=line.seed,
            scores=scores_on(columns, line.scores),
            wall_seconds=line.seconds,
            cost=line.seconds / 3600 * (1.0 if price is None else price),
        )
        for line in lines
    ]
    reference = FULL if FULL in config.methods else None
    unit = "hours" if price is None else "money"
    return build_scoreboard(columns, results, reference=reference, cost_unit=unit, left_out=left_out)


def cost_table(lines: Sequence[LineRecord]) -> str:
    """Markdown: where the time of each method went, means over its seeds."""
    rows = [
        "| method | rows | steps | selection s | training s | selection, part of both | evaluation s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in dict.fromkeys(line.method for line in lines):
        own = [line for line in lines if line.method == method]
        selection = fmean(sum(line.selection_seconds.values()) for line in own)
        total = fmean(line.seconds for line in own)
        share = f"{100 * selection / total:.1f}%" if total else "-"
        cells = (
            method.replace("|", "\\|"),
            f"{fmean(line.kept for line in own):,.0f}",
            f"{fmean(line.steps for line in own):,.0f}",
            f"{selection:.1f}",
            f"{total - selection:.1f}",
            share,
            f"{fmean(line.evaluation_seconds for line in own):.1f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
