"""``compare``: methods x seeds, each selected, finetuned and evaluated alike, on one scoreboard.

    for method, seed:  select --> finetune --> evaluate         every step is skipped or resumed by its own manifest
    scoreboard/<label>: scoreboard.md, .csv, .json, lines.json

'full' is a finetune on all rows, once per seed: the reference of Rel.% and of the cost share. The lines differ in what
they are trained on and in nothing else: same model, settings, test rows.

Cost of a line = its selection, tokenisation and training. What a method needs beforehand (features, clusters, ranking,
scores) is charged to every one of its lines whole, as if that line had been made alone, although the run makes it once.
Evaluation is not part of a line's cost. Seconds are those of the manifests, all attempts added up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from raycurate.config import SelectConfig, make_config
from raycurate.evaluation import Column, Result, Scoreboard, build_scoreboard, to_csv, to_json, to_markdown
from raycurate.evaluation.config import FULL, CompareConfig, EvaluateConfig, settings_of_line
from raycurate.ray_session import in_session
from raycurate.run.names import as_label
from raycurate.run.store import Manifest, Noun, Run
from raycurate.selection import build_selector
from raycurate.stages.engine.lineage import begin, keep_table, required
from raycurate.stages.engine.shards import describe
from raycurate.stages.engine.sources import check_sources, sources_of
from raycurate.stages.evaluate import SCORES_FILE, evaluate
from raycurate.stages.finetune import finetune
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
    board = _board(config, lines)
    inputs = {"scores": {scores.label: scores.fingerprint for scores in scored}}
    begin(noun, describe("compare", config, inputs, scored), replace=True)  # looked at before
    noun.write_bytes("scoreboard.md", f"{to_markdown(board)}\n{cost_table(lines)}\n".encode())
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


def needs_of(run: Run, config: SelectConfig) -> list[Noun]:
    """What a selection reads beside the samples, checked, in the order that it is made."""
    sources = sources_of(run, config, build_selector(config.method, config.options))
    check_sources(sources, required(run.noun("samples", config.samples)))
    return [*sources.made_before, *(noun for noun in (sources.measured, sources.ranking) if noun is not None)]


def _select_settings(config: CompareConfig, method: str) -> dict[str, Any]:
    return {
        "clusters": config.clusters,
        **settings_of_line(method, config.options, config.variants),
        "ratio": config.ratio,
        "samples": config.samples,
    }


def seconds_of(needs: Sequence[Noun]) -> dict[str, float]:
    """Wall clock by noun; what one pass made together is charged once."""
    seconds: dict[str, float] = {}
    passes: set[str] = set()
    for noun in needs:
        manifest = required(noun)
        name = noun.noun if noun.noun not in seconds else f"{noun.noun}/{noun.label}"
        shared = manifest.metrics.get("shared_pass")
        seconds[name] = 0.0 if shared in passes else manifest.seconds
        passes |= {shared} if shared is not None else set()
    return seconds


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
    if "command" not in config.evaluate:
        own["data"] = config.data
    if config.max_test_rows is not None:
        own["max_rows"] = config.max_test_rows
    return make_config(EvaluateConfig, {**config.evaluate, **own}, "evaluate")


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
    log.info("compare: %s: finetune", label)
    trained = finetune(run, _finetune_config(config, method, seed))
    log.info("compare: %s: evaluate", label)
    scored = evaluate(run, _evaluate_config(config, method, seed))
    scores = run.noun("scores", label).read_json(SCORES_FILE)
    assert scores is not None, "evaluate wrote its scores"
    record = LineRecord(
        method=method,
        seed=seed,
        label=label,
        kept=trained.rows_out,
        steps=int(trained.metrics["steps"]),
        selection_seconds=selection_seconds,
        training_seconds=training_seconds(run, trained),
        evaluation_seconds=float(scored.metrics.get("generation_seconds", scored.seconds)),
        scores=scores,
        headlines=scored.metrics["headlines"],
    )
    return record, scored


def training_seconds(run: Run, trained: Manifest) -> float:
    """Tokenisation and training; a short training is not seen by its progress line, so its own clock counts too."""
    fingerprint = trained.description["inputs"]["tokens"]
    selection = trained.description["config"].get("selection") or "all"
    tokens = run.noun("tokens", f"{selection}-{fingerprint[:8]}").manifest()
    own = max(trained.seconds, float(trained.metrics["seconds"]))
    return own + (tokens.seconds if tokens is not None else 0.0)


def _board(config: CompareConfig, lines: Sequence[LineRecord]) -> Scoreboard:
    columns = {
        (task, metric): Column(task, metric, higher)
        for line in lines
        for task, metrics in line.headlines.items()
        for metric, higher in metrics.items()
    }
    price = config.price_per_hour
    results = [
        Result(
            method=line.method,
            seed=line.seed,
            scores={key: line.scores[key[0]][key[1]] for key in columns if key[1] in line.scores.get(key[0], {})},
            wall_seconds=line.seconds,
            cost=line.seconds / 3600 * (1.0 if price is None else price),
        )
        for line in lines
    ]
    ordered = [columns[key] for key in sorted(columns)]
    reference = FULL if FULL in config.methods else None
    return build_scoreboard(ordered, results, reference=reference, cost_unit="hours" if price is None else "money")


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
